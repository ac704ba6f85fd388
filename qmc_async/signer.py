"""The ``Authorization`` header: sign it, verify it, and keep the platform's clock (2).

The value is ``Base64("APPID:timestamp:sign")``. The timestamp is in milliseconds and may be five
minutes from the platform's clock at most; the sign is the lower-case hex MD5 of
``APPID:APPSECRET:timestamp``.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
import logging
import re
import secrets
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

from attrs import field, frozen

from qmc_async.errors import ArgumentError
from qmc_async.models import BEIJING

__all__ = [
    "TOLERANCE",
    "Credentials",
    "PlatformClock",
    "Refusal",
    "Signer",
    "seconds_ahead",
]

logger = logging.getLogger(__name__)

TOLERANCE = timedelta(minutes=5)
"""How far a timestamp may be from the platform's clock, either way."""

# A platform that says it is another age has no clock to learn from.
_FIRST_YEAR, _LAST_YEAR = 2020, 2100
_LONG_MAX = 2**63 - 1
_LONG_DIGITS = len(str(_LONG_MAX))  # `int` of a stranger's digits must stay short: it may raise
_PARTS = 3
_PROBE = re.compile(rf"(([0-9]{{1,{_LONG_DIGITS}}}):[0-9a-f]{{32}}):([0-9a-f]{{64}})")


class Refusal(enum.Enum):
    """Why a header was not accepted."""

    NOT_BASE64 = "it is not Base64"
    NOT_THREE_PARTS = "it is not APPID:timestamp:sign"
    UNKNOWN_APP_ID = "its APPID is not ours"
    EXPIRED = "its timestamp is too far from the clock"
    WRONG_SIGN = "its sign does not fit: the secret differs, or it was tampered with"


def _to_app_id(value: int | str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        app_id = value
    else:
        digits = str(value).strip()
        if not (digits.isascii() and digits.isdigit()):
            raise ArgumentError(
                "app_id must be a whole number, as the platform's console shows it",
                argument="app_id",
            )
        # One digit more than a Long has is too much already, whatever follows it.
        app_id = int(digits.lstrip("0")[: _LONG_DIGITS + 1] or "0")
    if not 0 < app_id <= _LONG_MAX:
        raise ArgumentError("app_id must be between 1 and 2**63 - 1", argument="app_id")
    return app_id


def _check_secret(_: object, __: object, value: Any) -> None:  # noqa: ANN401 - callers err
    if not isinstance(value, str) or not value.strip():
        raise ArgumentError("app_secret must be a non-empty str", argument="app_secret")
    if value != value.strip():
        raise ArgumentError(
            "app_secret has white space around it: was it copied with its line break?",
            argument="app_secret",
        )
    if any("\ud800" <= char <= "\udfff" for char in value):  # what os.environ makes of other bytes
        raise ArgumentError("app_secret is not valid UTF-8", argument="app_secret")


@frozen
class Credentials:
    """What the platform's console gives an application.

    Attributes:
        app_id: a Long; a string of digits is taken too.
        app_secret: left out of the repr.

    Raises:
        ArgumentError: one of them cannot be right.
    """

    app_id: int = field(converter=_to_app_id)
    app_secret: str = field(repr=False, validator=_check_secret)


def seconds_ahead(date: str, sent: float, received: float) -> float | None:
    """How many seconds the clock behind a ``Date`` header is ahead of this machine's.

    Args:
        date: the header's value.
        sent: this machine's Unix time in seconds when the request left.
        received: the same when the reply's head came.

    Returns:
        Half a second coarse at best; negative where it is behind, None where it cannot be read.
    """
    try:
        parsed = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return None
    # HTTP's dates are in UTC: asctime's form has no zone, and "-0000" is read as none.
    parsed = parsed.replace(tzinfo=parsed.tzinfo or UTC)
    if not _FIRST_YEAR <= parsed.year <= _LAST_YEAR:
        return None
    # The header drops the fraction of the second, which is half a second on average.
    return parsed.timestamp() + 0.5 - (sent + received) / 2


def _from_base64(header: str | bytes) -> str | None:
    try:
        raw = (header.encode() if isinstance(header, str) else header).strip()
        decoded = base64.b64decode(raw, validate=True)
        # Even so the decoder takes padding that is too much, and last bits that mean nothing.
        return decoded.decode() if base64.b64encode(decoded) == raw else None
    except (binascii.Error, UnicodeError):
        return None


class PlatformClock:
    """How far the platform's clock is from this machine's, learned from its ``Date`` headers.

    An offset within `threshold` is not worth correcting: a ``Date`` header is a second coarse,
    and the tolerance is five minutes.

    Attributes:
        offset: seconds to add to this machine's time; 0.0 while the clocks agree.
        threshold: seconds.
    """

    def __init__(self, *, threshold: float = 30.0) -> None:
        self.offset = 0.0
        self.threshold = threshold
        self._warned = False
        self._last_date: str = ""

    def observe(self, date: str, sent: float, received: float) -> None:
        """Learn from one reply.

        Args:
            date: the ``Date`` header's value; one that cannot be read is passed over.
            sent: this machine's Unix time in seconds when the request left.
            received: the same when the reply's head came.
        """
        # One header a second is enough, and the comparison is cheaper than the parser.
        if date == self._last_date or not 0 <= received - sent <= self.threshold:
            return
        self._last_date = date
        apart = seconds_ahead(date, sent, received)
        if apart is None:
            return
        self.offset = apart if abs(apart) > self.threshold else 0.0
        if self.offset and not self._warned:
            self._warned = True
            logger.warning(
                "this machine's clock is %.0f s %s the platform's: signing with the platform's "
                "time from now on; set the clock right (NTP), the platform allows five minutes",
                abs(apart),
                "behind" if apart > 0 else "ahead of",
            )

    def time(self, now: float) -> float:
        """The platform's Unix time in seconds, when this machine's is `now`."""
        return now + self.offset

    def datetime(self, now: float) -> datetime:
        """The platform's time in UTC+8, when this machine's Unix time is `now`."""
        return datetime.fromtimestamp(now + self.offset, BEIJING)


class Signer:
    """Signs requests and verifies headers with one application's credentials.

    >>> signer = Signer(Credentials(1696054309969104898, "secret"))
    >>> header = signer.sign(1693270226.642)
    >>> signer.verify(header, 1693270300.0)
    Credentials(app_id=1696054309969104898)
    >>> signer.verify(header, 1693270226.642 + 301)
    <Refusal.EXPIRED: 'its timestamp is too far from the clock'>

    Attributes:
        credentials: whose signature it is.
        clock: the platform's clock, shared by all who share the signer.
    """

    def __init__(self, credentials: Credentials, *, clock: PlatformClock | None = None) -> None:
        self.credentials = credentials
        self.clock = clock or PlatformClock()

    def __repr__(self) -> str:
        return f"Signer({self.credentials!r})"

    def sign(self, now: float) -> str:
        """Make the ``Authorization`` header's value.

        Args:
            now: this machine's Unix time in seconds, such as `time.time()`; the clock's offset is
                added.
        """
        timestamp = str(round(self.clock.time(now) * 1000))
        plain = f"{self.credentials.app_id}:{timestamp}:{self._digest(timestamp)}"
        return base64.b64encode(plain.encode()).decode()

    def verify(
        self, header: str | bytes, now: float, tolerance: timedelta = TOLERANCE
    ) -> Credentials | Refusal:
        """Tell whether a header was signed with these credentials, and recently.

        The sign is compared in constant time. No input raises.

        Args:
            header: the value as it came.
            now: this machine's Unix time in seconds; the clock's offset is added.
            tolerance: how far the timestamp may be from that.

        Returns:
            The credentials that the header names, or why it was refused.
        """
        plain = _from_base64(header)
        if plain is None:
            return Refusal.NOT_BASE64
        parts = plain.split(":")
        if len(parts) != _PARTS:
            return Refusal.NOT_THREE_PARTS
        app_id, timestamp, sign = parts
        is_number = timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _LONG_DIGITS
        if not is_number or int(timestamp) > _LONG_MAX:
            return Refusal.NOT_THREE_PARTS
        if app_id != str(self.credentials.app_id):
            return Refusal.UNKNOWN_APP_ID
        if not hmac.compare_digest(sign.encode(), self._digest(timestamp).encode()):
            return Refusal.WRONG_SIGN
        apart = abs(int(timestamp) / 1000 - self.clock.time(now))
        # Of no number, neither is true.
        return self.credentials if apart <= tolerance.total_seconds() else Refusal.EXPIRED

    @cached_property
    def callback_token(self) -> str:
        """A path segment that only who has the secret can know: 43 URL-safe characters.

        The document gives the notification no signature, so the address that it is sent to is
        what tells the platform from a stranger.
        """
        purpose = f"qmc-async callback path {self.credentials.app_id}".encode()
        key = self.credentials.app_secret.encode()
        token = hmac.digest(key, purpose, "sha256")
        return base64.urlsafe_b64encode(token).rstrip(b"=").decode()

    def probe(self, now: float) -> str:
        """Make what asks a callback server whether it has the same secret.

        Args:
            now: this machine's Unix time in seconds.
        """
        question = f"{round(now * 1000)}:{secrets.token_hex(16)}"
        return f"{question}:{self._mark('probe', question)}"

    def answer_probe(self, probe: str, now: float) -> str | None:
        """Answer a probe as only who has the secret can; None to one of a stranger, or an old one.

        Args:
            probe: as it came; no input raises.
            now: this machine's Unix time in seconds.
        """
        found = _PROBE.fullmatch(probe)
        if found is None:
            return None
        question, timestamp, mark = found.groups()
        if not hmac.compare_digest(mark, self._mark("probe", question)):
            return None
        # Who asks may be this machine, whose clock is wrong, or another one with a right clock.
        apart = min(abs(int(timestamp) / 1000 - time) for time in (now, self.clock.time(now)))
        return self._mark("answer", question) if apart <= TOLERANCE.total_seconds() else None

    def is_answer(self, answer: str, probe: str) -> bool:
        """Whether it is what `answer_probe` says to a probe of ours."""
        question = probe.rpartition(":")[0]
        return hmac.compare_digest(answer.encode(), self._mark("answer", question).encode())

    def _mark(self, label: str, question: str) -> str:
        message = f"qmc-async {label} {self.credentials.app_id} {question}".encode()
        return hmac.digest(self.credentials.app_secret.encode(), message, "sha256").hex()

    def _digest(self, timestamp: str) -> str:
        plain = f"{self.credentials.app_id}:{self.credentials.app_secret}:{timestamp}"
        # MD5 is what the platform's document demands; nothing here relies on it being strong.
        return hashlib.md5(plain.encode(), usedforsecurity=False).hexdigest()
