"""The sandbox's recordings: when they can be had, and what can be heard on them."""

from __future__ import annotations

import io
import time
import wave
from array import array
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from test_sandbox_support import meeting

from qmc_async.models import Reason
from qmc_async.sandbox import Assumed, Rule, Scenario
from qmc_async.sandbox.audio import write_wav

if TYPE_CHECKING:
    from pathlib import Path

    from test_sandbox_support import Peer


def heard(samples: array[int]) -> list[int]:
    """Hertz of each second, by counting where the wave rises through zero."""
    seconds = [samples[at : at + 8000] for at in range(0, len(samples), 8000)]
    return [
        sum(before < 0 <= after for before, after in pairwise(second)) + 1 for second in seconds
    ]


def read(body: bytes) -> array[int]:
    """The samples of a WAV file of the documented kind."""
    with wave.open(io.BytesIO(body)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
        return array("h", file.readframes(file.getnframes()))


async def recorded(peer: Peer, callee: str = "13912345678") -> tuple[str, str]:
    """A call that has ended and whose recording is there: its id and the URL."""
    call_id = await peer.call(callee)
    await peer.platform.advance(seconds=19 + 10)
    reply = await peer.record(call_id)
    assert reply.code == 200, reply.json
    return call_id, str(reply.json["data"]["fileUrl"])


async def test_a_recording_can_be_played() -> None:
    """The file is a WAV of the talk's length, alternating 440 Hz and 660 Hz, without any auth."""
    async with meeting() as peer:
        _, url = await recorded(peer)
        assert url.startswith(peer.platform.base_url + "/")
        reply = await peer.request("GET", url)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "audio/wav")
    samples = read(reply.body)
    assert len(samples) == 12 * 8000 == int(peer.events[0]["callDuration"]) * 8000
    assert heard(samples) == [440, 660] * 6


async def test_the_reply_to_record_is_the_documents_example() -> None:
    """The envelope holds fileUrl and nothing else, the same for every request (3.3)."""
    async with meeting() as peer:
        call_id, url = await recorded(peer)
        reply = await peer.record(f" {call_id} ")
    assert reply.json == {
        "code": 200,
        "success": True,
        "data": {"fileUrl": url},
        "msg": "操作成功",
    }


async def test_a_part_of_a_recording_can_be_had() -> None:
    """Range is honoured, so that a download can be taken up again."""
    async with meeting() as peer:
        _, url = await recorded(peer)
        whole = await peer.request("GET", url)
        part = await peer.request("GET", url, {"Range": "bytes=1000-1999"})
        rest = await peer.request("GET", url, {"Range": "bytes=1000-"})
        beyond = await peer.request("GET", url, {"Range": "bytes=9999999-"})
        head = await peer.request("HEAD", url)
    size = len(whole.body)
    assert (part.status, part.body) == (206, whole.body[1000:2000])
    assert part.headers["Content-Range"] == f"bytes 1000-1999/{size}"
    assert (rest.status, whole.body[:1000] + rest.body) == (206, whole.body)
    assert beyond.status == 416
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(size), b"")


async def test_a_recording_takes_its_time() -> None:
    """Record is refused while the call goes on, and for `recording_delay` after it."""
    assumed = Assumed(recording_delay=timedelta(minutes=2), code_recording_not_ready=77)
    async with meeting(assumed=assumed) as peer:
        call_id = await peer.call()
        codes = [(await peer.record(call_id)).code]
        for seconds in (19, 119, 1):
            await peer.platform.advance(seconds=seconds)
            codes.append((await peer.record(call_id)).code)
    assert codes == [77, 77, 77, 200]


async def test_a_recording_is_ready_ten_seconds_after_the_call() -> None:
    """The delay and the code that are assumed where nobody says otherwise."""
    async with meeting() as peer:
        call_id = await peer.call()
        await peer.platform.advance(seconds=19 + 9)
        assert (await peer.record(call_id)).code == 40902
        await peer.platform.advance(seconds=1)
        assert (await peer.record(call_id)).code == 200


@pytest.mark.parametrize("asked_before", [True, False])
async def test_a_recording_is_gone_after_three_days(asked_before: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Three days after the end, and not a second sooner, record is refused and the URL is 404."""
    async with meeting(assumed=Assumed(code_recording_expired=78)) as peer:
        call_id, url = await recorded(peer)
        if asked_before:
            assert (await peer.request("GET", url)).status == 200
        call = peer.platform.calls[call_id]
        assert call.end_time is not None
        assert call.recording_expires_at == call.end_time + timedelta(days=3)
        await peer.platform.advance(days=3, seconds=-11)
        assert (await peer.record(call_id)).code == 200
        assert (await peer.request("GET", url)).status == 200
        await peer.platform.advance(seconds=1)
        assert (await peer.record(call_id)).code == 78
        assert (await peer.request("GET", url)).status == 404
        assert (await peer.request("GET", url)).status == 404


@pytest.mark.parametrize("callee", ["13900000005", "13900000011"])
async def test_not_every_call_has_a_recording(callee: str) -> None:
    """A call without talk, or whose recording failed, answers with the assumed code."""
    async with meeting(assumed=Assumed(code_no_recording=79)) as peer:
        call_id = await peer.call(callee)
        await peer.platform.advance(minutes=1)
        reply = await peer.record(call_id)
    assert reply.code == 79


async def test_recordings_cannot_be_guessed() -> None:
    """A name is long and random; the callidentifier, or a way out of the directory, is no name."""
    async with meeting() as peer:
        call_id, url = await recorded(peer)
        _, other = await recorded(peer)
        folder, _, name = url.rpartition("/")
        assert len(name) > 40
        assert name != other.rpartition("/")[2]
        for guess in (call_id, f"{call_id}.wav", "..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", ""):
            assert (await peer.request("GET", f"{folder}/{guess}")).status == 404


@pytest.mark.parametrize("seconds", [0, 1, 9])
async def test_a_recording_is_as_long_as_the_talk(seconds: int) -> None:
    """Odd lengths and none at all make valid files, for a talk of any length."""
    scenario = Scenario.for_reason(Reason.HANG_UP, talk=timedelta(seconds=seconds))
    async with meeting(rules=[Rule(scenario=scenario)]) as peer:
        call_id = await peer.call()
        await peer.platform.advance(minutes=1)
        url = (await peer.record(call_id)).json["data"]["fileUrl"]
        samples = read((await peer.request("GET", url)).body)
    assert heard(samples) == ([440, 660] * 5)[:seconds]


async def test_half_a_second_of_talk_is_not_counted() -> None:
    """The file is as long as callDuration, which is in whole seconds."""
    scenario = Scenario.for_reason(Reason.HANG_UP, talk=timedelta(seconds=2.5))
    async with meeting(rules=[Rule(scenario=scenario)]) as peer:
        call_id = await peer.call()
        await peer.platform.advance(minutes=1)
        url = (await peer.record(call_id)).json["data"]["fileUrl"]
        samples = read((await peer.request("GET", url)).body)
    assert peer.events[0]["callDuration"] == "2"
    assert peer.platform.calls[call_id].duration == timedelta(seconds=2)
    assert len(samples) == 2 * 8000


def test_an_hour_is_written_fast(tmp_path: Path) -> None:
    """An hour of talk, 58 MB, takes well under a second, and leaves no other file."""
    path = tmp_path / "hour.wav"
    began = time.perf_counter()
    write_wav(path, 3600)
    assert time.perf_counter() - began < 1
    assert path.stat().st_size == 44 + 3600 * 16000
    assert list(tmp_path.iterdir()) == [path]
