"""Who may post: the port stands on the internet, and the document gives notifications no signature.

1. What is refused is refused before its body is read, and its sender learns nothing but a status.
2. Who is not among `allowed_senders` gets 403 for every path, and never learns which one is ours;
   but for the two that tell how the server is, which come first.
3. The path ends in a token of the secret. It is compared in constant time, and never logged.
4. A notification is sent once, so what is refused is counted, and told at a bounded rate: it may
   have been the platform's.
"""

from __future__ import annotations

import enum
import hmac
import logging
import math
import os
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from qmc_async.callback.reply import (
    FORBIDDEN,
    NOT_ALLOWED,
    NOT_FOUND,
    TOO_LARGE,
    TOO_MANY,
    Reply,
    reply_of,
)
from qmc_async.callback.sender import Network, Proxies, Values, is_in, read_networks
from qmc_async.errors import ConfigError
from qmc_async.signer import TOLERANCE, Refusal

if TYPE_CHECKING:
    from qmc_async.callback.sender import Address
    from qmc_async.signer import Signer

__all__ = ["LONGEST_BODY", "PROBE", "Authorization", "Guard", "Networks"]

logger = logging.getLogger(__name__)

Networks: TypeAlias = str | Iterable[str | Network]
"""Networks such as ``10.0.0.0/8``, and addresses: with commas, or as a list."""

Authorization: TypeAlias = Literal["checked", "required", "ignored"]
"""What is done with a notification's ``Authorization``: the document does not say it has one."""

LONGEST_BODY: Final = 64 * 1024
"""Bytes. The longest notification that the document allows is under one thousand."""
PROBE: Final = "Qmc-Probe"
"""The header by which `qmc doctor` asks who listens here: see `Signer.probe`."""

_QUIET: Final = 60.0  # seconds between two lines about one reason: strangers must not fill the log
_SLOWEST: Final = 1e-6  # requests a second
_REMEMBERED: Final = 10_000  # senders, of whom it is known how much they have sent
_SUBSCRIBER: Final = 64  # bits of an IPv6 address that one sender cannot choose
# Which a proxy may have asked its users for, and passed on. The platform's has no space in it.
_ANOTHER_SCHEME: Final = re.compile(r"\s*[A-Za-z][A-Za-z0-9-]{0,19}[ \t]+\S")


class Reason(enum.Enum):
    """Why a request was refused."""

    SENDER = "sender"
    RATE = "rate"
    PATH = "path"
    METHOD = "method"
    LENGTH = "length"
    AUTHORIZATION = "authorization"
    PROBE = "probe"


_REPLIES: Final = {
    Reason.SENDER: FORBIDDEN,
    Reason.RATE: TOO_MANY,
    Reason.PATH: NOT_FOUND,
    Reason.METHOD: NOT_ALLOWED,
    Reason.LENGTH: TOO_LARGE,
    Reason.AUTHORIZATION: FORBIDDEN,
    Reason.PROBE: NOT_FOUND,
}
_ADVICE: Final = {
    Reason.SENDER: "if {detail} is the platform's, or a proxy of yours, add it to allowed_senders "
    "or trusted_proxies",
    Reason.RATE: "if {detail} is the platform's, or a proxy that is not in trusted_proxies, raise "
    "rate_limit",
    Reason.PATH: "compare the address on the platform's console with the server's url: a new "
    "APPSECRET, for one, makes a new address",
    Reason.METHOD: "the address is known, and was asked for by another method than POST",
    Reason.LENGTH: "the address is known, and more than 64 KiB were posted to it",
    Reason.AUTHORIZATION: "{detail}: if it is the platform's, compare APPID and APPSECRET with its "
    "console and this machine's clock with the time, or pass authorization='ignored'",
    Reason.PROBE: "it was a probe of qmc doctor, with another APPSECRET or another time",
}


class Guard:
    """Refuses requests, by their head alone.

    Args:
        path: where notifications are taken.
        signer: whose signatures and probes are accepted; without one none is.
        allowed_senders: who may post, None for everybody. See `CallbackServer`.
        trusted_proxies: see `Proxies`.
        authorization: see `Authorization`.
        replay_window: how old a signature may be.
        rate_limit: how many requests of one sender are let through in a second, None for all.

    Raises:
        ConfigError: one of them is malformed; it names the argument or the variable.
    """

    def __init__(
        self,
        path: str,
        signer: Signer | None = None,
        *,
        allowed_senders: Networks | None = None,
        trusted_proxies: Networks | None = None,
        authorization: Authorization = "checked",
        replay_window: timedelta = TOLERANCE,
        rate_limit: float | None = None,
    ) -> None:
        self._path = path.encode()
        self._signer = signer
        self._allowed: tuple[Network, ...] = ()
        self._proxies = Proxies()
        setting, given = _given("allowed_senders", allowed_senders)
        try:
            if given is not None:
                self._allowed = read_networks(given)
                if not self._allowed:
                    raise ValueError("it is empty, so that nobody could post")  # noqa: TRY301 - told as all others
            setting, given = _given("trusted_proxies", trusted_proxies)
            if given is not None:
                self._proxies = Proxies.read(given)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{setting}: {error}", setting=setting) from None
        if authorization not in get_args(Authorization):
            raise ConfigError(
                "authorization: it must be checked, required or ignored", setting="authorization"
            )
        if authorization == "required" and signer is None:
            raise ConfigError(
                "authorization: required needs a signer, or a client", setting="authorization"
            )
        if not isinstance(replay_window, timedelta) or not timedelta() < replay_window:  # pyright: ignore[reportUnnecessaryIsInstance] - callers err
            raise ConfigError(
                "replay_window: it must be a timedelta above 0", setting="replay_window"
            )
        is_rate = isinstance(rate_limit, int | float) and _SLOWEST <= rate_limit < math.inf
        if rate_limit is not None and (isinstance(rate_limit, bool) or not is_rate):
            raise ConfigError(
                "rate_limit: it must be a number of requests a second, above 0",
                setting="rate_limit",
            )
        self._authorization = authorization
        self._replay_window = replay_window
        self._rate = None if rate_limit is None else _Rate(rate_limit)
        self._refused: Counter[str] = Counter()
        # Each reason by itself: what strangers try all day must not hide what the platform meets.
        self._quiet_until: dict[Reason, float] = {}

    @property
    def refused(self) -> Mapping[str, int]:
        """How many requests were refused so far, by the reason."""
        return MappingProxyType(self._refused)

    def refuse(  # noqa: PLR0911 - one for each reason
        self,
        method: str,
        paths: Iterable[str],
        length: int | None,
        peer: str | None,
        values: Values,
    ) -> Reply | None:
        """What to answer before the body is read, None to go on to it.

        Args:
            method: of the request.
            paths: of the request, without the query: one, or as each part of an application sees
                it.
            length: of the body in bytes, None where it is not declared.
            peer: the address of the connection's other end; None or empty for a Unix socket.
            values: of the request's headers. A request that has `PROBE` is no notification, and is
                never kept.
        """
        sender = None
        if self._allowed or self._rate is not None:
            sender = self._proxies.sender(peer, values)
        if self._allowed and (sender is None or not is_in(sender, self._allowed)):
            return self._refuse(Reason.SENDER, str(sender or "an unknown address"))
        if not any([hmac.compare_digest(_bytes(path), self._path) for path in paths]):  # noqa: C419 - each of them, or the time would tell which
            return self._refuse(Reason.PATH)
        # Only of who knows the path: behind a proxy that is not trusted, all are one sender.
        if self._rate is not None and not self._rate.admits(sender, time.monotonic()):
            return self._refuse(Reason.RATE, str(sender or "an unknown address"))
        if method != "POST":
            return self._refuse(Reason.METHOD)
        if length is not None and length > LONGEST_BODY:
            return self._refuse(Reason.LENGTH)
        if probes := values(PROBE):
            return self._answer(probes[0])
        if self._signer is not None and self._authorization != "ignored":
            problem = self._problem_of(values("Authorization"), self._signer)
            if problem:
                return self._refuse(Reason.AUTHORIZATION, problem)
        return None

    def too_long(self) -> Reply:
        """The same for a body that did not say how long it is."""
        return self._refuse(Reason.LENGTH)

    def _answer(self, probe: str) -> Reply:
        answer = None if self._signer is None else self._signer.answer_probe(probe, time.time())
        return self._refuse(Reason.PROBE) if answer is None else reply_of(200, "probe", answer)

    def _problem_of(self, headers: Iterable[str], signer: Signer) -> str:
        """What is wrong with a notification's ``Authorization``, empty where nothing is."""
        # One that was wrapped, as in the document's own example, is joined by white space.
        ours = {"".join(one.split()) for one in headers if not _ANOTHER_SCHEME.match(one)} - {""}
        if not ours:
            return "its Authorization is missing" if self._authorization == "required" else ""
        if len(ours) > 1:
            return "it has more than one Authorization"
        header = ours.pop().encode("utf-8", "surrogatepass")
        found = signer.verify(header, time.time(), self._replay_window)
        return f"of its Authorization, {found.value}" if isinstance(found, Refusal) else ""

    def _refuse(self, reason: Reason, detail: str = "") -> Reply:
        self._refused[reason.value] += 1
        reply = _REPLIES[reason]
        now = time.monotonic()
        if now >= self._quiet_until.get(reason, 0.0):
            self._quiet_until[reason] = now + _QUIET
            logger.warning(
                "requests refused so far: %d (%s), the last with HTTP %d: %s",
                self._refused.total(),
                ", ".join(f"{name} {count}" for name, count in self._refused.items()),
                reply.status,
                _ADVICE[reason].format(detail=detail),
            )
        return reply


class _Rate:
    """How much each sender has sent, as the time at which it would have sent nothing.

    Args:
        limit: requests a second. So many may also come at once.
    """

    def __init__(self, limit: float) -> None:
        self._pause = 1.0 / limit
        self._burst = max(1.0, self._pause)
        self._idle_at: OrderedDict[Address | int | None, float] = OrderedDict()

    def admits(self, sender: Address | None, now: float) -> bool:
        """Whether one more request is not too many."""
        key: Address | int | None = sender
        if sender is not None and sender.version == 6:  # noqa: PLR2004 - IPv6
            key = int(sender) >> (sender.max_prefixlen - _SUBSCRIBER)
        idle_at = max(self._idle_at.get(key, now), now) + self._pause
        if idle_at - now > self._burst + 1e-9:  # a float's error
            return False
        self._idle_at[key] = idle_at
        self._idle_at.move_to_end(key)
        if len(self._idle_at) > _REMEMBERED:
            self._idle_at.popitem(last=False)
        return True


def _given(argument: str, value: Networks | None) -> tuple[str, Networks | None]:
    variable = f"QMC_{argument.upper()}"
    if value is None and os.environ.get(variable, "").strip():
        return variable, os.environ[variable]
    return argument, value


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogatepass")
