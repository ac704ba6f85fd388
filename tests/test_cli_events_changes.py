"""`qmc events replay` and `qmc events purge`: what they change, and what they leave alone."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import click
import pytest
from callback_peer import Seen, body_of, deliveries_in, post_to, select_in, until, url_in
from events_store import UNREADABLE, fill, keep, qmc

from qmc_async import CallbackServer, Reject, UnknownNotification
from qmc_async.codec import unknown_notification

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400_000  # milliseconds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a store is, with one event of each sort."""
    fill(tmp_path)
    return tmp_path


def states_in(folder: Path) -> dict[tuple[str, str], str]:
    """The state of each delivery, from the file itself."""
    query = "SELECT event_id, handler, state FROM qmc_deliveries"
    return {(event_id, handler): state for event_id, handler, state in select_in(folder, query)}


def bury(folder: Path) -> None:
    """Make every delivery a dead letter."""
    select_in(folder, "UPDATE qmc_deliveries SET state = 'dead', due_at = NULL, owner = NULL")


async def test_a_running_server_gets_a_replayed_event(tmp_path: Path) -> None:
    """What was given up is handled by the server that has the store open all the while."""
    seen = Seen()
    server = CallbackServer(store=url_in(tmp_path), port=0, shutdown_timeout=0.2)
    server.on_disconnected(name="sms")(seen.handler("sms", Reject("no"), None))
    async with server:
        await post_to(server, body_of("1"))
        await until(lambda: deliveries_in(tmp_path)["sms"][0] == "dead")
        result = await asyncio.to_thread(qmc, tmp_path, "replay", "1")
        assert (result.exit_code, result.output) == (0, "1  again to sms\n")
        await until(lambda: deliveries_in(tmp_path)["sms"][0] == "done")
    assert seen.names == ["sms", "sms"]
    assert seen.attempts == [1, 1]


@pytest.mark.parametrize("wanted", ["1001", "order-1"])
def test_replay_makes_dead_letters_due(folder: Path, wanted: str) -> None:
    """Only what was given up is tried again, as if never tried; what is done stays done."""
    result = qmc(folder, "replay", wanted)
    assert (result.exit_code, result.output) == (0, "1001  again to billing\n")
    query = "SELECT state, attempts, due_at FROM qmc_deliveries WHERE event_id = '1001'"
    billing, crm = select_in(folder, f"{query} ORDER BY handler")
    assert billing[:2] == ("pending", 0)
    assert billing[2] is not None
    assert crm[::2] == ("done", None)


def test_replay_can_choose_the_handler(folder: Path) -> None:
    """`--handler` leaves other handlers' dead letters where they are."""
    bury(folder)
    assert qmc(folder, "replay", "1001", "--handler", "crm").output == "1001  again to crm\n"
    states = states_in(folder)
    assert states["1001", "crm"] == "pending"
    assert states["1001", "billing"] == "dead"
    result = qmc(folder, "replay", "1001", "--handler", "crm")
    assert result.exit_code == 1
    assert result.stderr == ("1001  nothing to replay: it is no dead letter of the handler crm\n")


def test_replay_of_several(folder: Path) -> None:
    """Each id is answered for, once; one that has nothing to replay makes the status 1."""
    unreadable = next(
        one for (one,) in select_in(folder, "SELECT event_id FROM qmc_events") if one[0] == "~"
    )
    result = qmc(folder, "replay", "1002", "1001", "nobody's", unreadable, "1001")
    assert result.exit_code == 1
    assert result.stdout == "1001  again to billing\n"
    assert result.stderr == (
        "1002  nothing to replay: it is no dead letter\n"
        "nobody's  nothing to replay: there is no such event\n"
        f"{unreadable}  nothing to replay: it is no dead letter, and still cannot be decoded\n"
    )


def test_replay_decodes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the decoder of its day could not read goes to whom it concerns, once it can be read."""

    def read_badly(body: bytes, _: str = "") -> UnknownNotification:
        return unknown_notification(body, problem="too new")

    with monkeypatch.context() as patch:
        patch.setattr("qmc_async.store.records.read_notification", read_badly)
        asyncio.run(keep(tmp_path, body_of("77")))
    [(event_id, kind)] = select_in(tmp_path, "SELECT event_id, kind FROM qmc_events")
    assert kind == "unknown"
    result = qmc(tmp_path, "replay", "77")
    assert result.output == f"{event_id}  can be decoded now, and goes to whom it concerns\n"
    assert result.exit_code == 0
    query = "SELECT event_id, kind, routed FROM qmc_events"
    assert select_in(tmp_path, query) == [("77", "disconnected", 0)]


def test_replay_all_asks_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All dead letters are replayed once somebody has agreed, in as many steps as it takes."""
    monkeypatch.setattr("qmc_async.cli.maintenance._AT_ONCE", 1)
    monkeypatch.setattr("qmc_async.cli.maintenance.PAGE", 1)
    bury(folder)
    result = qmc(folder, "replay", "--all", answer="y\n")
    assert result.exit_code == 0
    assert "Replay the dead letters of 2 events? [y/N]" in result.stderr
    # Some versions of click echo the answer here.
    assert result.stdout.endswith("1002  again to billing, crm\n1001  again to billing, crm\n")
    assert set(states_in(folder).values()) == {"pending"}


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
@pytest.mark.parametrize("words", [("replay", "--all"), ("purge", "--older-than", "0")])
def test_nothing_happens_without_a_yes(folder: Path, words: tuple[str, ...], answer: str) -> None:
    """No, or nobody there to answer, changes nothing; status 1, and it says how to do it."""
    bury(folder)
    select_in(folder, "UPDATE qmc_deliveries SET state = 'done' WHERE event_id = '1002'")
    before = states_in(folder)
    result = qmc(folder, *words, answer=answer)
    assert result.exit_code == 1
    assert result.stderr.endswith("qmc: nothing was changed; --yes does it without asking\n")
    assert "again" not in result.stdout
    assert "deleted" not in result.stdout
    assert states_in(folder) == before


def test_replay_all_of_one_handler(folder: Path) -> None:
    """`--all --handler` takes what this handler gave up; with `--yes` nobody is asked."""
    bury(folder)
    select_in(folder, "UPDATE qmc_deliveries SET state = 'done' WHERE event_id = '1002'")
    result = qmc(folder, "replay", "--all", "--yes", "--handler", "crm")
    assert (result.exit_code, result.output) == (0, "1001  again to crm\n")
    again = qmc(folder, "replay", "--all", "--yes", "--handler", "crm")
    assert again.exit_code == 1
    assert again.stderr == "qmc: there are no dead letters of the handler crm\n"
    assert states_in(folder)["1001", "billing"] == "dead"


def test_somebody_else_may_be_faster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another has replayed while the question stood is told as such."""

    def confirm(_: str, **__: object) -> bool:
        select_in(folder, "UPDATE qmc_deliveries SET state = 'pending', due_at = 1")
        return True

    monkeypatch.setattr(click, "confirm", confirm)
    result = qmc(folder, "replay", "--all")
    assert (result.exit_code, result.output) == (0, "1001  was replayed meanwhile\n")


@pytest.mark.parametrize("words", [(), ("1001", "--all")])
def test_replay_takes_either_ids_or_all(folder: Path, words: tuple[str, ...]) -> None:
    """Neither, or both, is a mistake, and nothing is done."""
    before = states_in(folder)
    result = qmc(folder, "replay", *words, "--yes")
    assert result.exit_code == 2
    assert "give either IDs or --all" in result.stderr
    assert states_in(folder) == before


@pytest.fixture
def aged(folder: Path) -> Path:
    """The same, of which all but the last event came 91 days ago."""
    select_in(
        folder,
        "UPDATE qmc_events SET received_at = received_at - ? WHERE body != ?",
        91 * DAY,
        UNREADABLE,
    )
    return folder


def test_purge_deletes_what_is_old_and_finished(aged: Path) -> None:
    """What is younger, what is to be handled, and what was given up stay."""
    result = qmc(aged, "purge", "--older-than", "90", "--yes")
    assert (result.exit_code, result.output) == (0, "2 events deleted\n")  # conflict and Ringing
    query = "SELECT event_id FROM qmc_events ORDER BY seq"
    kept = [event_id for (event_id,) in select_in(aged, query)]
    assert kept[:2] == ["1001", "1002"]  # dead, pending
    assert kept[2].startswith("~")  # young
    assert len(kept) == 3
    assert {event_id for event_id, _ in states_in(aged)} == {"1001", "1002"}


def test_purge_asks_and_says_how_many(aged: Path) -> None:
    """The question names the store, and the time from which on events stay."""
    select_in(aged, "UPDATE qmc_deliveries SET state = 'done', due_at = NULL")
    for table in ("qmc_events", "qmc_deliveries"):
        select_in(aged, f"DELETE FROM {table} WHERE event_id != '1002'")  # noqa: S608 - our names
    result = qmc(aged, "purge", "--older-than", "90.5", answer="y\n")
    assert result.exit_code == 0
    assert result.stdout.endswith("1 event deleted\n")
    question = f"Delete what is finished and came before 2.* from {aged / 'qmc.db'}\\?"
    assert re.search(question, result.stderr)
    assert select_in(aged, "SELECT count(*) FROM qmc_events") == [(0,)]
    assert not states_in(aged)


@pytest.mark.parametrize("words", [(), ("--older-than", "-1"), ("--older-than", "40000")])
def test_purge_needs_an_age(folder: Path, words: tuple[str, ...]) -> None:
    """Without one, or with one that is none, nothing is deleted."""
    result = qmc(folder, "purge", "--yes", *words)
    assert result.exit_code == 2
    assert select_in(folder, "SELECT count(*) FROM qmc_events") == [(5,)]
