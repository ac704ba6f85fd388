"""The callback address: whether it leads to a server that has our secret (3.2)."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import socket
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson
from attrs import field, frozen

from qmc_async.callback import CallbackServer
from qmc_async.callback.guard import PROBE
from qmc_async.callback.reply import CONTENT_TYPE
from qmc_async.doctor.asking import Answer, NoAnswer, Why, ask, origin
from qmc_async.doctor.finding import Finding, Status, amount, skipped
from qmc_async.errors import ConfigError
from qmc_async.settings import whole_url
from qmc_async.signer import TOLERANCE, Signer

if TYPE_CHECKING:
    from qmc_async.settings import Settings

__all__ = ["Address", "examine_address"]

_NAMES: Final = ("callback", "callback_address")
_ADVICE: Final = {
    Why.NO_NAME: "correct the address, or its DNS",
    Why.REFUSED: "start the server, or the proxy in front of it",
    Why.NO_WAY: "correct the address, or open the firewall for its port",
    Why.TOO_SLOW: "open the firewall for its port, or see what the server is busy with",
    Why.CERTIFICATE: "renew it, with all certificates between it and a well-known authority",
    Why.TLS: "give the proxy a certificate, or correct the port",
    Why.CUT: "see whether a proxy or a firewall keeps it from the server",
    Why.NO_HTTP: "correct the port",
}
_GATEWAY: Final = frozenset(
    {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)


@frozen
class Address:
    """What is given of the callback address.

    Attributes:
        callback_url: the whole of it.
        public_url: what stands before the path.
    """

    callback_url: str | None = field(repr=False)
    public_url: str | None

    def whole(self, signer: Signer) -> str | None:
        """The whole address, None where nothing is given.

        Raises:
            ConfigError: it can be none.
        """
        if self.callback_url is not None:
            try:
                return whole_url(self.callback_url)
            except ValueError as error:
                raise ConfigError(f"the callback address: {error}") from None
        if self.public_url is not None:
            server = CallbackServer(signer=signer, store="sqlite://", public_url=self.public_url)
            return server.url
        return None


async def examine_address(
    settings: Settings,
    address: Address,
    timeout: float,  # noqa: ASYNC109 - of each request
) -> list[Finding]:
    """Post a probe there, and see whether outsiders could."""
    signer = Signer(settings.credentials)
    try:
        url = address.whole(signer)
    except ConfigError as error:
        advice = "give it as the server's url says it"
        failed = Finding("callback", Status.FAILED, str(error), advice)
        return [failed, skipped("callback_address", "there is none")]
    if url is None:
        advice = "pass --callback-url, or set QMC_CALLBACK_URL, to what the server's url says"
        return [skipped(name, "it is not known", advice * (name == _NAMES[0])) for name in _NAMES]
    probe = signer.probe(time.time())
    headers = {PROBE: probe, "Content-Type": CONTENT_TYPE}
    answer, reach = await asyncio.gather(
        ask("POST", url, timeout, headers=headers, body=b"{}"), _reach(settings, url, timeout)
    )
    return [_lead(signer, url, probe, answer), reach]


def _lead(  # noqa: PLR0911 - one for each sort of answer
    signer: Signer, url: str, probe: str, answer: Answer | NoAnswer
) -> Finding:
    def found(status: Status, what: str, advice: str = "") -> Finding:
        return Finding("callback", status, f"{origin(url)}: {what}", advice)

    if isinstance(answer, NoAnswer):
        return found(Status.FAILED, answer.told, _ADVICE[answer.why])
    if answer.status == HTTPStatus.OK:
        if signer.is_answer(_data_of(answer.body), probe):
            return found(Status.OK, "a server that has this secret answers")
        advice = "correct the address: what it leads to takes notifications, and loses them"
        return found(Status.FAILED, "another server answers, and takes anything", advice)
    what = f"HTTP {answer.status}"
    if answer.status == HTTPStatus.NOT_FOUND:
        return found(Status.FAILED, *_not_found(signer, url, answer))
    if answer.status in _GATEWAY:
        return found(Status.FAILED, f"a proxy answers {what}", "start the server behind it")
    if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        advice = (
            "if it takes the platform's addresses only, that is well, but not known to be: let "
            "this machine through for a moment"
        )
        return found(Status.WARNING, f"who guards it turns this machine away ({what})", advice)
    if answer.status < HTTPStatus.BAD_REQUEST:
        advice = "enter the address that it leads to: the platform may not follow"
        return found(Status.FAILED, f"it leads elsewhere ({what})", advice)
    return found(Status.FAILED, f"another server answers ({what})", "correct the address")


def _not_found(signer: Signer, url: str, answer: Answer) -> tuple[str, str]:
    what = "there is no server of this secret at that path (HTTP 404)"
    apart = abs(answer.ahead or 0.0)
    if apart > TOLERANCE.total_seconds():
        return f"{what}, or it cannot tell: its clock is {amount(apart)} off", "set both clocks"
    token = url.rpartition("/")[2].encode()
    if hmac.compare_digest(token, signer.callback_token.encode()):
        return what, "is it another server's host or path, or does it run with another secret?"
    return (
        f"{what}, and the address does not end with this secret's token",
        "use the url of a server that has this QMC_APP_SECRET: a new secret makes a new address",
    )


def _data_of(body: bytes) -> str:
    try:
        answer: Any = orjson.loads(body)
        data: object = answer["data"]
    except (orjson.JSONDecodeError, KeyError, TypeError):  # no JSON, or none like ours
        return ""
    return data if isinstance(data, str) else ""


async def _reach(settings: Settings, url: str, timeout: float) -> Finding:  # noqa: ASYNC109 - it becomes a finding
    name = "callback_address"
    if _is_inside([urlsplit(settings.base_url).hostname or ""]):
        return Finding(name, Status.OK, "the platform that is set is on this network as well")
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(timeout):
            found = await asyncio.get_running_loop().getaddrinfo(
                parts.hostname, parts.port, type=socket.SOCK_STREAM
            )
    except (OSError, UnicodeError):  # a label may be too long for the encoder; TimeoutError is one
        return skipped(name, "the name of its host is not known")
    if _is_inside([str(one[4][0]) for one in found]):
        return Finding(
            name,
            Status.WARNING,
            f"{parts.hostname} is loopback or private: the platform cannot reach it",
            "enter a public address on the platform's console, unless the name leads to one there",
        )
    if parts.scheme == "http":
        advice = "put TLS in front of it: who reads the wire could post in the platform's name"
        return Finding(name, Status.WARNING, "it is plain http", advice)
    return Finding(name, Status.OK, "it is public, and https")


def _is_inside(hosts: list[str]) -> bool:
    return not any(_is_global(host) for host in hosts)


def _is_global(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_global
    except ValueError:
        return host != "localhost"
