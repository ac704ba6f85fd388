"""One request of `qmc doctor`, and what keeps it from being answered."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from faulty_platform import (
    FaultyPlatform,
    always,
    close_after_reading,
    endless_reply,
    half_a_reply,
    http,
    never_answer,
    no_http,
    no_tls,
    silent,
    unreachable,
)

from qmc_async.doctor import Status
from qmc_async.doctor.asking import Answer, NoAnswer, Why, ask
from qmc_async.doctor.finding import amount
from qmc_async.models import BEIJING

if TYPE_CHECKING:
    from pathlib import Path

    from faulty_platform import Behaviour

from doctor_support import PATIENCE, UNKNOWN_CALL, Setting, look, platform_that, reset


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (reset, Why.CUT),
        (close_after_reading, Why.CUT),
        (half_a_reply, Why.CUT),
        (no_http, Why.NO_HTTP),
        (no_tls, Why.TLS),
    ],
)
async def test_why_there_is_no_answer(behaviour: Behaviour, why: Why) -> None:
    """The sorts are told apart by what happens on a socket."""
    async with FaultyPlatform(behaviour) as there:
        url = there.url.replace("http:", "https:") if why is Why.TLS else there.url
        answer = await ask("GET", f"{url}/s3cret", PATIENCE)
    assert isinstance(answer, NoAnswer)
    assert answer.why is why
    assert "s3cret" not in repr(answer)


@pytest.mark.parametrize("behaviour", [silent, never_answer])
async def test_an_answer_that_does_not_come(behaviour: Behaviour) -> None:
    """The timeout ends it."""
    async with FaultyPlatform(behaviour) as there:
        answer = await ask("GET", there.url, 0.1)
    assert answer == NoAnswer(Why.TOO_SLOW, "there is no answer within 0.1 s")


@pytest.mark.parametrize(
    ("host", "why"),
    [
        (".".join(["a" * 60] * 5), Why.NO_NAME),  # longer than any name can be: nobody is asked
        ("255.255.255.255", Why.NO_WAY),
    ],
)
async def test_where_there_is_nobody(host: str, why: Why) -> None:
    """A name that is none, and an address that cannot be connected to."""
    answer = await ask("GET", f"http://{host}:9", PATIENCE)
    assert isinstance(answer, NoAnswer)
    assert answer.why is why


async def test_nothing_listens() -> None:
    """A refused connection is told as one."""
    async with unreachable() as nowhere:
        answer = await ask("GET", nowhere, PATIENCE)
    assert isinstance(answer, NoAnswer)
    assert answer.why is Why.REFUSED


async def test_a_reason_that_nobody_gives(monkeypatch: Setting) -> None:
    """An error without a number is told as one."""

    async def fail(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", fail)
    answer = await ask("GET", "http://127.0.0.1:1", PATIENCE)
    assert answer == NoAnswer(Why.NO_WAY, "there is no way to it: no reason is given")


def self_signed(folder: Path) -> ssl.SSLContext:
    """A certificate that nobody vouches for."""
    from cryptography import x509  # noqa: PLC0415 - only here
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 - the same
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - the same

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(BEIJING)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = folder / "localhost.pem"
    encoding = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8
    pem.write_bytes(
        key.private_bytes(encoding, form, serialization.NoEncryption())
        + certificate.public_bytes(encoding)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


async def test_a_certificate_that_is_not_accepted(tmp_path: Path, monkeypatch: Setting) -> None:
    """What is wrong with it is told."""
    runner = web.AppRunner(web.Application())
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self_signed(tmp_path)).start()
        url = f"https://127.0.0.1:{runner.addresses[0][1]}/"
        async with platform_that(monkeypatch, always(http(UNKNOWN_CALL))):
            callback = (await look(callback_url=url))["callback"]
    finally:
        await runner.cleanup()
    assert callback.status is Status.FAILED
    assert "its certificate is not accepted: self" in callback.found


async def test_an_answer_without_an_end() -> None:
    """As much is read of it as could be ours."""
    async with FaultyPlatform(endless_reply) as there:
        answer = await ask("GET", there.url, PATIENCE)
    assert isinstance(answer, Answer)
    assert answer.status == 200
    assert 65_536 < len(answer.body) < 1_000_000
    assert len(repr(answer)) < 100


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.4, "0 s"), (119.4, "119 s"), (120, "2 min"), (-540, "-9 min")]
)
def test_amounts(seconds: float, told: str) -> None:
    """Short times are in seconds, longer ones in minutes."""
    assert amount(seconds) == told
