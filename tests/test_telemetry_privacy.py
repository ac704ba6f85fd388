"""Traces and metrics hold no secret, number, signature, address or message of an exception.

As in `test_privacy`, everything private is planted, and then all that was recorded is searched.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from callback_peer import SOON, Seen, body_of, hurry, path_of, post_to, until, url_in
from faulty_platform import APP_ID, CALLEE, CALLER, SECRET, FaultyPlatform, unreachable
from ledger_support import client_of
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import StatusCode
from telemetry_support import Recorded
from test_ledger_privacy import SOUND, files_in, place_and_record
from test_privacy import MISBEHAVIOURS, QUOTED_NUMBERS, RECORDING, assert_private, run_all

from qmc_async import CallbackServer, RecordingArchive, Reject
from qmc_async.telemetry.words import told

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def everything_in(recorded: Recorded) -> Iterator[str]:
    """All that an exporter could show of what was recorded."""
    for span in recorded.spans:
        yield span.name
        yield f"{span.attributes!r} {span.status.description} {span.context!r} {span.resource!r}"
        yield repr([(event.name, dict(event.attributes or {})) for event in span.events])
        yield repr([(link.context, dict(link.attributes or {})) for link in span.links])
        yield span.to_json()
    for name, _, point in recorded.metrics:
        yield f"{name} {point!r}"


def test_the_search_finds() -> None:
    """Names, attributes, events and metrics are looked into, so that these tests can fail."""
    for where in ("name", "attribute", "event", "status", "metric"):
        spans = Recorded(TracerProvider())
        with spans.tracers.get_tracer("t").start_as_current_span(
            SECRET if where == "name" else "x"
        ) as span:
            if where == "attribute":
                span.set_attribute("x", CALLER)
            elif where == "event":
                span.record_exception(ValueError(SECRET))
            elif where == "status":
                span.set_status(StatusCode.ERROR, SECRET)
        if where == "metric":
            spans.meters.get_meter("t").create_counter("x").add(1, {"x": SECRET})
        with pytest.raises(AssertionError):
            assert_private(everything_in(spans))


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("name", MISBEHAVIOURS)
async def test_a_client(name: str, recorded: Recorded, tmp_path: Path) -> None:
    """Whatever the platform answers, or quotes."""
    async with FaultyPlatform(MISBEHAVIOURS[name]) as platform, unreachable() as nobody:
        url = {"no TLS": platform.url.replace("http", "https"), "refused": nobody}.get(
            name, platform.url
        )
        async with client_of(
            url, url_in(tmp_path), timeout=0.05, deadline=0.2, max_retries=1
        ) as client:
            await run_all(client, tmp_path)
            quoted = await asyncio.gather(
                client.end_call(QUOTED_NUMBERS), client.recording(CALLER), return_exceptions=True
            )
    assert len(recorded.spans) > 8
    assert len(quoted) == 2
    assert_private(everything_in(recorded), platform)
    assert_private(files_in(tmp_path), platform)


async def test_a_server(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls, notifications with numbers all over, handlers that quote them, and an archive."""
    hurry(monkeypatch)
    bodies = [
        body_of("c-told", outCallId="told", recordingResult="success", caller=CALLER),
        body_of("c-told", outCallId="told", reason=f"HangUp by {CALLER}"),
        body_of(f"c-{CALLER}", outCallId=f"order of {CALLER}", reason=QUOTED_NUMBERS),
        body_of(CALLEE, status=CALLER, outCallId=CALLEE),
        f'{{"callidentifier": "{CALLER}", "secret": "{SECRET}'.encode(),
    ]
    async with (
        FaultyPlatform(place_and_record) as platform,
        client_of(platform.url, url_in(tmp_path)) as client,
    ):
        server = CallbackServer(client=client, port=0)
        RecordingArchive(tmp_path / "archive", client=client).attach(server)
        seen = Seen()
        failures = [ValueError(f"{CALLER} {SECRET}"), Reject(f"{CALLEE} {client.signer}")]
        server.on_disconnected(name="bill", retry=SOON)(seen.handler("bill", *failures))
        server.on_unknown(name="unknown")(seen.handler("unknown"))
        server.on_conflict(name="conflict")(seen.handler("conflict"))
        async with server:
            await client.call(CALLER, CALLEE, out_call_id="told")
            token = path_of(server).rpartition("/")[2]
            for body in bodies:
                assert (await post_to(server, body)).status == 200
            await until(lambda: {"unknown", "conflict", "bill"} <= set(seen.names))
            await until(lambda: list((tmp_path / "archive").rglob("*.json")))
    texts = list(everything_in(recorded))
    assert {"qmc.handle archive", "qmc.handle conflict", "qmc.download", "qmc.notification"} <= {
        span.name for span in recorded.spans
    }
    assert_private(iter(texts), platform)
    for private in (token, str(APP_ID), RECORDING, SOUND.decode("latin-1"), "/qmc/callback"):
        assert not any(private in text for text in texts)


@pytest.mark.parametrize(
    ("identifier", "shown"),
    [
        ("order-42", "order-42"),
        ("128754716574532539", "128754716574532539"),
        (f"of {CALLER}", "of 139****4321"),
        ("half \ud83d", "half ?"),
        ("x" * 1000, "x" * 128),
    ],
)
def test_ids(identifier: str, shown: str) -> None:
    """They are shown as far as they are ids, and as any exporter can take them."""
    assert told(identifier) == shown
