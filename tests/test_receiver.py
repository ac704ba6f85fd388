"""A body to a reply, without a socket: what is taken, and what is answered."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import logging
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmc_async.callback import body, guard, receiver, reply, sender
from qmc_async.callback.guard import LONGEST_BODY, Guard
from qmc_async.callback.receiver import Receiver
from qmc_async.callback.reply import CONTENT_TYPE, Reply
from qmc_async.models import Disconnected, UnknownNotification

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from qmc_async.models import Notification
    from qmc_async.store.records import Receipt

PATH = "/qmc/callback/s3cret-token_"
NUMBER = "13912345678"
BODY = (
    b'{"callidentifier":"128754716574532539","status":"Disconnected",'
    b'"endTime":"2023-08-29 08:52:10","reason":"HangUp","outCallId":"order-42"}'
)
LEAST = b'"callidentifier":"1","status":"Disconnected","endTime":"2023-08-29 08:52:10"'

SUCCESS = b'{"code":"200","msg":"success","data":""}'

STRANGE = {
    "empty": b"",
    "white space": b" \r\n ",
    "not JSON": b"callidentifier=1&status=Disconnected&callee=13912345678",
    "cut short": BODY[:-1],
    "two objects": BODY + BODY,
    "a list": b"[" + BODY + b"]",
    "a string": b'"Disconnected"',
    "null": b"null",
    "not UTF-8": b'{"callidentifier":"\xff\xfe","status":"Disconnected"}',
    "UTF-16": BODY.decode().encode("utf-16"),
    "GBK": '{"status":"Disconnected","msg":"挂断"}'.encode("gbk"),
    "a lone surrogate": b'{"callidentifier":"\\ud800","status":"Disconnected"}',
    "an encoded surrogate": b'{"callidentifier":"\xed\xa0\x80","status":"Disconnected"}',
    "deep lists": b"[" * 10_000 + b"]" * 10_000,
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "deep in a field": b"{" + LEAST + b',"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "NaN": b"{" + LEAST + b',"callDuration":NaN}',
    "Infinity": b"{" + LEAST + b',"callDuration":-Infinity}',
    "a long number": b"{" + LEAST + b',"callDuration":' + b"9" * 5_000 + b"}",
    "no status": b'{"callidentifier":"1","endTime":"2023-08-29 08:52:10"}',
    "another status": b'{"callidentifier":"1","status":"Ringing","callee":"13912345678"}',
    "a status of another case": b'{"callidentifier":"1","status":"disconnected"}',
    "a status that is no string": b'{"callidentifier":"1","status":["Disconnected"]}',
    "no call id": b'{"status":"Disconnected","endTime":"2023-08-29 08:52:10"}',
    "an empty call id": b'{"callidentifier":" ","status":"Disconnected"}',
    "a call id that is an object": b'{"callidentifier":{"a":1},"status":"Disconnected"}',
    "no end": b'{"callidentifier":"1","status":"Disconnected"}',
    "an impossible end": b'{"callidentifier":"1","status":"Disconnected",'
    b'"endTime":"2023-02-30 08:52:10"}',
    "nul bytes": b"\x00" * 100,
    "the longest": b"[" * LONGEST_BODY,
}


class Kept:
    """What a receiver handed on; it fails if told to."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.all: list[tuple[Notification, bytes]] = []
        self.failure = failure
        self.receiver = Receiver(Guard(PATH), self.accept)

    def accept(self, receipt: Receipt, then: Callable[[BaseException | None], None]) -> None:
        """Keep it."""
        if self.failure is None:
            self.all.append((receipt.event, receipt.body))
        asyncio.get_running_loop().call_soon(then, self.failure)


@pytest.mark.parametrize("module", [receiver, guard, sender, body, reply])
def test_module_has_no_framework(module: ModuleType) -> None:
    """What judges a request imports nothing that speaks HTTP: any framework can stand around it."""
    tree = ast.parse(inspect.getsource(module))
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in imported}
    assert roots <= {*sys.stdlib_module_names, "attrs", "orjson", "qmc_async"}
    assert not roots & {"http", "socket", "ssl", "urllib"}
    assert not [name for name in imported if "server" in name or "client" in name]


async def test_a_length_that_was_not_declared() -> None:
    """A body that turns out too long is refused, and is not handed on; the longest one is."""
    kept = Kept()
    reply = await kept.receiver.take(b"x" * 65_537)
    assert reply == Reply(413, b'{"code":"413","msg":"content too large","data":""}')
    assert kept.all == []
    assert await kept.receiver.take(BODY.ljust(65_536)) == Reply(200, SUCCESS)
    assert len(kept.all) == 1


async def test_what_the_document_demands() -> None:
    """The answer to a notification (3.2): `code` and `data` are Strings."""
    kept = Kept()
    reply = await kept.receiver.take(BODY)
    assert reply == Reply(200, SUCCESS)
    answer = json.loads(reply.body)
    assert list(answer) == ["code", "msg", "data"]
    assert all(isinstance(value, str) for value in answer.values())
    assert CONTENT_TYPE == "application/json;charset=utf-8"


async def test_a_notification_is_handed_on_decoded() -> None:
    """Who keeps it gets the event and the bytes as they came."""
    kept = Kept()
    await kept.receiver.take(BODY)
    [(event, body)] = kept.all
    assert isinstance(event, Disconnected)
    assert (event.call_id, event.out_call_id) == ("128754716574532539", "order-42")
    assert body == BODY


async def test_the_last_of_duplicate_keys_counts() -> None:
    """A key that stands twice is read as JSON parsers do, and is no reason to lose the call."""
    kept = Kept()
    body = b'{"callidentifier":"0",' + LEAST + b',"outCallId":"a","outCallId":"b"}'
    assert (await kept.receiver.take(body)).status == 200
    [(event, _)] = kept.all
    assert isinstance(event, Disconnected)
    assert (event.call_id, event.out_call_id) == ("1", "b")


@pytest.mark.parametrize("body", STRANGE.values(), ids=STRANGE.keys())
async def test_what_cannot_be_decoded_is_kept_whole(body: bytes) -> None:
    """It will not come again: it is answered with success, and handed on with all its bytes."""
    kept = Kept()
    assert await kept.receiver.take(body) == Reply(200, SUCCESS)
    [(event, handed_on)] = kept.all
    assert isinstance(event, UnknownNotification)
    assert event.body == handed_on == body


@given(st.binary(max_size=200) | st.text().map(lambda text: json.dumps({"status": text}).encode()))
async def test_no_body_is_lost(body: bytes) -> None:
    """Whatever the bytes are, they are handed on once, as they came, and answered with success."""
    kept = Kept()
    assert await kept.receiver.take(body) == Reply(200, SUCCESS)
    assert [handed_on for _, handed_on in kept.all] == [body]


async def test_why_it_cannot_be_decoded(caplog: pytest.LogCaptureFixture) -> None:
    """The problem is in the event and, as a warning, in the log; neither quotes the value."""
    kept = Kept()
    body = b'{"callidentifier":"77","status":"Disconnected","endTime":"13912345678"}'
    await kept.receiver.take(body)
    [(event, _)] = kept.all
    assert isinstance(event, UnknownNotification)
    assert (event.status, event.call_id) == ("Disconnected", "77")
    assert event.problem is not None
    assert event.problem.startswith("$.endTime: ")
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert event.problem in record.getMessage()
    assert NUMBER not in caplog.text + event.problem + repr(event)


async def test_another_status_is_no_problem(caplog: pytest.LogCaptureFixture) -> None:
    """A status that the document does not have yet is no error: there is no problem to log."""
    kept = Kept()
    await kept.receiver.take(b'{"callidentifier":"77","status":"Ringing"}')
    [(event, _)] = kept.all
    assert isinstance(event, UnknownNotification)
    assert (event.status, event.call_id, event.problem) == ("Ringing", "77", None)
    assert not caplog.records


@pytest.mark.parametrize("failure", [None, OSError("disk full")])
async def test_a_long_call_id_is_cut_in_the_log(
    failure: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A body that is nothing but an id makes no line of 64 KiB, whatever is told of it."""
    wire = {"callidentifier": "7" * 60_000, "status": "Disconnected", "callDuration": "x"}
    body = json.dumps(wire | {"endTime": "2023-08-29 08:52:10"}).encode()
    await Kept(failure).receiver.take(body)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (1 if failure is None else 2)
    for line in lines:
        assert f" {'7' * 64} " in line
        assert len(line) < 200


async def test_the_answer_waits_until_it_is_kept() -> None:
    """Nothing is answered for before it is kept."""
    asked: list[Callable[[BaseException | None], None]] = []

    def accept(_: Receipt, then: Callable[[BaseException | None], None]) -> None:
        asked.append(then)

    answering = asyncio.ensure_future(Receiver(Guard(PATH), accept).take(BODY))
    await asyncio.sleep(0.02)
    assert not answering.done()
    asked[0](None)
    assert (await answering).status == 200


@pytest.mark.parametrize("body", [BODY, b"["])
@pytest.mark.parametrize("failure", [OSError("disk full"), TimeoutError(), RecursionError()])
async def test_what_cannot_be_kept(
    body: bytes, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not answered with success, and the loss is logged as critical with the call id."""
    reply = await Kept(failure).receiver.take(body)
    assert reply == Reply(
        500, b'{"code":"500","msg":"the notification could not be kept","data":""}'
    )
    [record] = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert type(failure).__name__ in record.getMessage()
    assert "disk full" not in caplog.text  # databases quote what they could not keep
    assert record.exc_info is None
    assert ("128754716574532539" if body is BODY else "None") in record.getMessage()


@pytest.mark.parametrize("failure", [None, OSError("disk full")])
async def test_who_asks_can_be_cancelled(
    failure: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It is kept all the same; a stop waits for that, and a loss is told."""
    asked: list[Callable[[BaseException | None], None]] = []

    def accept(_: Receipt, then: Callable[[BaseException | None], None]) -> None:
        asked.append(then)

    receiver = Receiver(Guard(PATH), accept)
    answering = asyncio.ensure_future(receiver.take(BODY))
    await asyncio.sleep(0)
    answering.cancel()
    await asyncio.wait([answering])
    assert answering.cancelled()
    await receiver.finish(0.01)
    finishing = asyncio.ensure_future(receiver.finish(60))
    await asyncio.sleep(0.01)
    assert not finishing.done()
    asked[0](failure)
    await finishing
    assert ("could not be kept" in caplog.text) is (failure is not None)


async def test_a_mistake_is_answered_for(caplog: pytest.LogCaptureFixture) -> None:
    """Where keeping it does not even begin, that is told like any other loss."""

    def accept(_: Receipt, __: Callable[[BaseException | None], None]) -> None:
        raise KeyError("13912345678")

    receiver = Receiver(Guard(PATH), accept)
    assert (await receiver.take(BODY)).status == 500
    assert "KeyError" in caplog.text
    assert "13912345678" not in caplog.text
    await receiver.finish(60)


def test_reply_hides_its_body() -> None:
    """A reply is shown by its status."""
    assert repr(Reply(200, SUCCESS)) == "Reply(status=200)"


def test_the_path_is_not_shown() -> None:
    """The token does not stand in the receiver's repr."""
    assert "s3cret" not in repr(Kept().receiver)
