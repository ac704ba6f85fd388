"""`Postpone`: a handler that cannot do its work yet gets the event again, and has not failed."""

from __future__ import annotations

import logging
import math
import pickle
from typing import TYPE_CHECKING

import pytest
from callback_peer import (
    SOON,
    Seen,
    body_of,
    deliveries_in,
    hurry,
    make_due,
    messages,
    post_to,
    select_in,
    until,
    url_in,
)

from qmc_async import ArgumentError, CallbackServer, Disconnected, Reject, Retry
from qmc_async.callback.delivery import Postpone

if TYPE_CHECKING:
    from pathlib import Path

NUMBER = "13912345678"
ERRORS = "SELECT error FROM qmc_deliveries"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def _server(folder: Path, seen: Seen, *failures: Exception, retry: Retry = SOON) -> CallbackServer:
    """A server whose only handler raises these, one after the other."""
    server = CallbackServer(port=0, store=url_in(folder), shutdown_timeout=0.2)
    server.on_disconnected(name="a", retry=retry)(seen.handler("a", *failures))
    return server


# --- the exception -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "delay", [0, -1, math.nan, math.inf, -math.inf, 6 * 3600 + 0.001, True, False]
)
def test_a_delay_that_is_none(delay: float) -> None:
    """What is no wait, or a longer one than the store lets pass, is refused; the error says so."""
    with pytest.raises(ArgumentError, match=r"^delay: it must be a number") as caught:
        Postpone(delay)
    assert caught.value.argument == "delay"


@pytest.mark.parametrize("delay", [0.001, 1, 6 * 3600])
def test_a_delay(delay: float) -> None:
    """The bounds themselves are allowed; what it was made of is in it, also once it was pickled."""
    for why in ("", "the file is not there"):
        wish = Postpone(delay, why)
        copy = pickle.loads(pickle.dumps(wish))  # noqa: S301 - our own
        for one in (wish, copy):
            assert (one.delay, one.why) == (delay, why)
            assert str(one) == (why or f"by {delay:g} s")


# --- through a server --------------------------------------------------------------------------


async def test_it_runs_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After the delay, as the same attempt with the same key; nothing is logged as if it failed."""
    caplog.set_level(logging.DEBUG)
    seen = Seen()
    server = _server(tmp_path, seen, Postpone(0.01), Postpone(0.01, "not yet"))
    async with server:
        await post_to(server, body_of())
        await until(lambda: deliveries_in(tmp_path).get("a") == ("done", 0, None))
    assert seen.attempts == [1, 1, 1]
    assert len({delivery.idempotency_key for delivery in seen.deliveries}) == 1
    for level in (logging.WARNING, logging.ERROR, logging.CRITICAL):
        assert messages(caplog, level) == []
    told = [text for text in messages(caplog, logging.DEBUG) if "postponed event 4711" in text]
    assert len(told) == 2
    assert select_in(tmp_path, ERRORS) == [("",)]


@pytest.mark.parametrize("delay", [600, 6 * 3600])
async def test_when_it_runs_again(tmp_path: Path, delay: float) -> None:
    """The delay is written down as it was asked for, without jitter; until then nothing runs."""
    seen = Seen()
    server = _server(tmp_path, seen, Postpone(delay))
    waits = "SELECT state, attempts, owner, due_at - changed_at FROM qmc_deliveries"
    async with server:
        await post_to(server, body_of())
        expected = [("pending", 0, None, delay * 1000)]
        await until(lambda: select_in(tmp_path, waits) == expected)
        assert len(seen.all) == 1
        make_due(tmp_path)
        await until(lambda: len(seen.all) == 2)


async def test_it_may_do_so_for_ever(tmp_path: Path) -> None:
    """However often it does, it is never given up, not even where one failure would be enough."""
    seen = Seen()
    wishes = [Postpone(0.001) for _ in range(50)]
    server = _server(tmp_path, seen, *wishes, ValueError(), retry=Retry(attempts=1))
    async with server:
        await post_to(server, body_of())
        await until(lambda: deliveries_in(tmp_path).get("a") == ("dead", 1, None))
    assert seen.attempts == [1] * 51


async def test_failures_are_counted_all_the_same(tmp_path: Path) -> None:
    """Between its wishes, failures make up the number of attempts, also over a restart."""
    seen = Seen()
    retry = Retry(attempts=3, first_delay=0.001, longest_delay=0.001)
    first = [ValueError(), Postpone(0.001), ValueError(), Postpone(3600, "later")]
    server = _server(tmp_path, seen, *first, retry=retry)
    async with server:
        await post_to(server, body_of())
        await until(lambda: select_in(tmp_path, ERRORS) == [("Postpone: later",)])
        assert deliveries_in(tmp_path) == {"a": ("pending", 2, None)}
    make_due(tmp_path)
    again = _server(tmp_path, seen, ValueError("enough"), retry=retry)
    async with again:
        await until(lambda: deliveries_in(tmp_path) == {"a": ("dead", 3, None)})
    assert seen.attempts == [1, 2, 2, 3, 3]
    assert select_in(tmp_path, ERRORS) == [("ValueError: enough",)]


async def test_why(tmp_path: Path) -> None:
    """Who looks at what waits reads it, with telephone numbers masked; an old failure is gone."""
    seen = Seen()
    wishes = [ValueError("old"), Postpone(3600, f"no recording of {NUMBER}"), Postpone(3600)]
    server = _server(tmp_path, seen, *wishes)
    async with server:
        await post_to(server, body_of())
        expected = [("Postpone: no recording of 139****5678",)]
        await until(lambda: select_in(tmp_path, ERRORS) == expected)
        make_due(tmp_path)
        await until(lambda: select_in(tmp_path, ERRORS) == [("",)])
    assert deliveries_in(tmp_path) == {"a": ("pending", 1, None)}


async def test_its_siblings_do_not_wait(tmp_path: Path) -> None:
    """They run once, and it is no dead letter, whatever they are."""
    seen = Seen()
    server = _server(tmp_path, seen, Postpone(3600))
    server.on_disconnected(name="b")(seen.handler("b"))
    server.on_disconnected(name="c")(seen.handler("c", Reject("never")))
    async with server:
        await post_to(server, body_of())
        expected = {"a": ("pending", 0, None), "b": ("done", 0, None), "c": ("dead", 1, None)}
        await until(lambda: deliveries_in(tmp_path) == expected)
        assert [letter.handler for letter in await server.dead_letters()] == ["c"]
    assert sorted(seen.names) == ["a", "b", "c"]


async def test_it_holds_no_slot(tmp_path: Path) -> None:
    """Others get their events meanwhile, however few may run at once."""
    got: list[str] = []
    server = CallbackServer(port=0, store=url_in(tmp_path), max_concurrency=1)

    @server.on_disconnected(name="a")
    async def handle(event: Disconnected) -> None:
        got.append(event.call_id)
        if event.call_id == "1":
            raise Postpone(3600)

    async with server:
        for call_id in ("1", "2", "3"):
            await post_to(server, body_of(call_id))
        await until(lambda: len(got) == 3)
    assert sorted(got) == ["1", "2", "3"]


async def test_a_delay_that_is_none_is_a_failure(tmp_path: Path) -> None:
    """A handler that makes that mistake has failed, and the letter says how."""
    server = CallbackServer(port=0, store=url_in(tmp_path))

    @server.on_disconnected(name="a", retry=Retry(attempts=1))
    async def handle(_: Disconnected) -> None:
        raise Postpone(7 * 3600)

    async with server:
        await post_to(server, body_of())
        await until(lambda: deliveries_in(tmp_path).get("a") == ("dead", 1, None))
        [letter] = await server.dead_letters()
    assert letter.error.startswith("ArgumentError: delay: ")
