"""The probe of `qmc doctor`: who may ask a callback server who it is, and what that leaves behind.

The HMAC is computed here once more, from what `Signer.probe` promises.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from callback_peer import (
    NOT_FOUND,
    SIGNER,
    SUCCESS,
    TOKEN,
    TOO_LARGE,
    Reply,
    alone,
    body_of,
    select_in,
    url_in,
)
from callback_shells import shells
from hypothesis import given
from hypothesis import strategies as st

from qmc_async import Credentials, Signer
from qmc_async.signer import PlatformClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from callback_peer import Listening

APP_ID, SECRET = 1696054309969104898, b"secret"  # of SIGNER
NONCE = "0123456789abcdef" * 2
NOW = 1_700_000_000.0


def mark(label: str, question: str, secret: bytes = SECRET, app_id: int = APP_ID) -> str:
    """What only who has the secret can write behind a question."""
    message = f"qmc-async {label} {app_id} {question}".encode()
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def question_at(now: float) -> str:
    """A question that was asked at a time."""
    return f"{round(now * 1000)}:{NONCE}"


def probe_at(now: float, secret: bytes = SECRET, app_id: int = APP_ID) -> str:
    """A whole probe that was made at a time."""
    question = question_at(now)
    return f"{question}:{mark('probe', question, secret, app_id)}"


async def ask(there: Listening, probe: str, body: bytes = b"{}", **how: Any) -> Reply:  # noqa: ANN401 - as `request_bytes` takes it
    """Send a probe, as `qmc doctor` does or as told."""
    return await there.post(body, f"Qmc-Probe: {probe}", **how)


def assert_nothing_came(there: Listening, folder: Path) -> None:
    """No handler has seen anything, and nothing stands in the store."""
    assert there.ended + there.unknown == []
    assert select_in(folder, "SELECT count(*) FROM qmc_events") == [(0,)]


# --- the question and the answer ----------------------------------------------------------------


def test_a_probe_is_what_it_promises_to_be() -> None:
    """It has the time, a nonce that never comes again, and an HMAC under a label of its own."""
    first, second = SIGNER.probe(NOW), SIGNER.probe(NOW)
    assert first != second
    for probe in (first, second):
        timestamp, nonce, sign = probe.split(":")
        assert timestamp == "1700000000000"
        assert len(nonce) == 32
        assert sign == mark("probe", f"{timestamp}:{nonce}")


def test_the_answer_has_another_label() -> None:
    """Who sends the question back, or what it has from elsewhere, has not answered."""
    probe = probe_at(NOW)
    answer = SIGNER.answer_probe(probe, NOW) or ""
    assert answer == mark("answer", question_at(NOW))
    assert SIGNER.is_answer(answer, probe)
    others = [*probe.split(":"), probe, "", TOKEN, answer[:-1], answer.upper(), "密", "0" * 64]
    assert not any(SIGNER.is_answer(other, probe) for other in others)
    assert not SIGNER.is_answer(answer, SIGNER.probe(NOW))


@pytest.mark.parametrize(
    "signer", [Signer(Credentials(APP_ID, "x")), Signer(Credentials(1, "secret"))]
)
def test_other_credentials(signer: Signer) -> None:
    """Neither another secret nor another APPID answers, or takes our answer for its own."""
    probe = SIGNER.probe(NOW)
    assert signer.answer_probe(probe, NOW) is None
    assert not signer.is_answer(SIGNER.answer_probe(probe, NOW) or "", probe)


@pytest.mark.parametrize(
    ("later", "is_answered"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)]
)
def test_a_probe_is_good_for_five_minutes(later: float, *, is_answered: bool) -> None:
    """What somebody has written down is worthless soon, and one from the future is as well."""
    assert (SIGNER.answer_probe(probe_at(NOW), NOW + later) is not None) is is_answered


@pytest.mark.parametrize("asked_at", [NOW, NOW + 540])
def test_a_wrong_clock_does_not_matter_where_the_platforms_is_known(asked_at: float) -> None:
    """Who asks has the same wrong clock, being on the same machine, or a right one."""
    clock = PlatformClock()
    clock.offset = 540.0
    signer = Signer(SIGNER.credentials, clock=clock)
    assert signer.answer_probe(probe_at(asked_at), NOW) is not None
    assert signer.answer_probe(probe_at(NOW - 540), NOW) is None


@given(st.text() | st.from_regex(r"[0-9]{0,20}:[0-9a-f]{0,33}:[0-9a-f]{0,65}"))
def test_no_other_text_is_answered(text: str) -> None:
    """Whatever somebody sends, it does not raise, and gets no answer."""
    assert SIGNER.answer_probe(text, NOW) is None


# --- over a socket ------------------------------------------------------------------------------


@shells
async def test_a_server_answers_and_keeps_nothing(listen: Any, tmp_path: Path) -> None:  # noqa: ANN401 - one of the shells
    """The answer has the document's form; then notifications are taken as before."""
    async with listen(signer=SIGNER, store=url_in(tmp_path)) as there:
        now = time.time()
        reply = await ask(there, probe_at(now))
        again = await ask(there, probe_at(now), body_of())
        assert_nothing_came(there, tmp_path)
        assert (await there.post(body_of())).body == SUCCESS
        assert select_in(tmp_path, "SELECT count(*) FROM qmc_events") == [(1,)]
    assert reply.status == again.status == 200
    assert reply.body == again.body
    answer = mark("answer", question_at(now))
    assert json.loads(reply.body) == {"code": "200", "msg": "probe", "data": answer}


FORGED: dict[str, Callable[[float], str]] = {
    "another secret": lambda now: probe_at(now, secret=b"other"),
    "another APPID": lambda now: probe_at(now, app_id=1),
    "old": lambda now: probe_at(now - 600),
    "from the future": lambda now: probe_at(now + 600),
    "cut": lambda now: probe_at(now)[:-1],
    "longer": lambda now: probe_at(now) + "0",
    "another time": lambda now: probe_at(now).replace("1", "2", 1),
    "no sign": question_at,
    "empty": lambda _: "",
    "the path's token": lambda now: f"{question_at(now)}:{TOKEN}",
    "not ASCII": lambda now: probe_at(now) + "密",
    "long": lambda _: "1" * 8000,
}


@shells
@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
async def test_a_stranger_is_refused_as_one(listen: Any, forged: Any, tmp_path: Path) -> None:  # noqa: ANN401 - one of the shells, and of those above
    """It looks as if there were nothing, also with a notification's body: that is not kept."""
    async with listen(signer=SIGNER, store=url_in(tmp_path)) as there:
        reply = await ask(there, forged(time.time()), body_of())
        assert_nothing_came(there, tmp_path)
    assert (reply.status, reply.body) == (404, NOT_FOUND)


async def test_what_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A good probe opens no other path, method or length, and a huge header is no request."""
    async with alone(signer=SIGNER, store=url_in(tmp_path)) as there:
        probe = probe_at(time.time())
        elsewhere = await ask(there, probe, target="/qmc/callback")
        fetched = await ask(there, probe, b"", method="GET")
        large = await ask(there, probe, length=65_537)
        huge = await ask(there, "1" * 100_000)
        assert_nothing_came(there, tmp_path)
    assert (elsewhere.status, elsewhere.body) == (404, NOT_FOUND)
    assert fetched.status == 405
    assert (large.status, large.body) == (413, TOO_LARGE)
    assert huge.status == 400


async def test_a_server_without_a_secret(tmp_path: Path) -> None:
    """It cannot answer, and does not take the probe for a notification."""
    async with alone(store=url_in(tmp_path)) as there:
        reply = await ask(there, probe_at(time.time()), body_of())
        assert_nothing_came(there, tmp_path)
    assert (reply.status, reply.body) == (404, NOT_FOUND)


async def test_probes_are_discreet(caplog: pytest.LogCaptureFixture) -> None:
    """A good one leaves no line in the log, and a forged one the line that strangers leave."""
    caplog.set_level("INFO", "qmc_async.callback")
    async with alone(signer=SIGNER) as there:
        caplog.clear()
        await ask(there, probe_at(time.time()))
        assert not caplog.records
        forged = probe_at(time.time(), secret=b"other")
        await ask(there, forged)
        [record] = caplog.records
    assert "requests refused so far: 1 (probe 1), the last with HTTP 404" in record.getMessage()
    assert NONCE not in caplog.text
