"""Made-up notifications: as the codec reads them, and as the platform posts them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from callback_shells import asgi_serving

from qmc_async import CallbackServer, Credentials, Reason, RecordingResult, Signer
from qmc_async.codec import decode_notification
from qmc_async.models import BEIJING
from qmc_async.sandbox import Sandbox
from qmc_async.testing import disconnected, handled, post_disconnected

if TYPE_CHECKING:
    from qmc_async import Disconnected

SIGNER = Signer(Sandbox.CREDENTIALS)
END = datetime(2026, 1, 31, 18, 0, 0, tzinfo=BEIJING)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason(reason: Reason) -> None:
    """The event is what the codec reads of the bytes, and has what a call has that ends so."""
    event = disconnected(reason)
    assert event == decode_notification(json.dumps(event.raw).encode())
    assert event.raw["status"] == "Disconnected"
    assert event.reason is reason
    assert not event.problems
    assert (event.start_time is None) == (reason.startswith("Caller") and reason != "CallerAbandon")
    assert (event.answer_time is None) == (reason is not Reason.HANG_UP)
    assert (event.call_duration is None) == (reason is not Reason.HANG_UP)


def test_every_part() -> None:
    """What is asked for stands in the event."""
    event = disconnected(
        call_id="4711",
        out_call_id="order-42",
        talk=timedelta(minutes=1),
        end_time=END,
        recording="fail",
    )
    assert event.raw == {
        "callidentifier": "4711",
        "status": "Disconnected",
        "answerTime": "2026-01-31 17:59:00",
        "endTime": "2026-01-31 18:00:00",
        "startTime": "2026-01-31 17:58:56",
        "reason": "HangUp",
        "callDuration": "60",
        "recordingResult": "fail",
        "outCallId": "order-42",
    }
    assert event.recording_result is RecordingResult.FAIL
    with pytest.raises(ValueError, match="nobody talks"):
        disconnected("CalleeBusy", talk=timedelta(minutes=1))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_server_that_wants_it_signed(host: str) -> None:
    """The notification is signed as the server wants it; unsigned, or by another, it is refused."""
    server = CallbackServer(signer=SIGNER, host=host, port=0, authorization="required")
    seen: list[Disconnected] = []

    @server.on_disconnected
    async def note(event: Disconnected) -> None:
        seen.append(event)

    event = disconnected("CallerBusy", call_id="4711", end_time=END)
    other = Signer(Credentials(1, "other"))
    async with server:
        answer = await post_disconnected(server, event)
        assert (answer.status, json.loads(answer.body)["code"]) == (200, "200")
        assert (await post_disconnected(server, event, signed=False)).status == 403
        assert (await post_disconnected(server, event, signer=other)).status == 403
        assert (await post_disconnected(server.url, "CalleeBusy")).status == 200
        await handled(server)
    assert seen[0] == event
    assert seen[1].reason is Reason.CALLEE_BUSY


async def test_an_application() -> None:
    """Where a server is mounted in an application, its address there is the one to give."""
    server = CallbackServer(signer=SIGNER, public_url="https://crm.example.com")
    async with asgi_serving(server.asgi) as port:
        with pytest.raises(ValueError, match="at which it listens on this machine"):
            await post_disconnected(server)
        here = server.url.replace("https://crm.example.com", f"http://127.0.0.1:{port}")
        assert (await post_disconnected(here)).status == 200


async def test_a_server_without_a_secret() -> None:
    """It takes the notification as it is."""
    async with CallbackServer(port=0) as server:
        assert (await post_disconnected(server)).status == 200


async def test_nobody_answers() -> None:
    """The error says so, and not the secret path."""
    async with CallbackServer(signer=SIGNER, port=0) as server:
        pass
    for nowhere in (server, "no address, but a secret"):
        with pytest.raises(ConnectionError) as caught:
            await post_disconnected(nowhere)
        assert "no answer: " in str(caught.value)
        assert "secret" not in str(caught.value)
        assert SIGNER.callback_token not in str(caught.value)
