"""An ``Authorization`` header (2), read part by part, for who wonders why it is refused."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from qmc_async.cli.shown import as_time
from qmc_async.doctor.finding import Finding, Status, skipped
from qmc_async.models import BEIJING
from qmc_async.signer import TOLERANCE, Credentials, Refusal, Signer

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Known", "explain", "unwrapped"]

_PARTS: Final = 3
_LONG_MAX: Final = 2**63 - 1
_LONG: Final = re.compile(r"[1-9][0-9]{0,18}")
_NAME: Final = re.compile(r"authorization:", re.IGNORECASE)
_SIGN: Final = re.compile(r"[0-9a-f]{32}")
_NOT_ENCODED: Final = re.compile(r"[0-9]+:[0-9]+:[0-9A-Fa-f]+")
_SECONDS: Final = range(10**9, 10**10)  # timestamps of our days, had they been in seconds
_NOT_SPLIT: Final = "the header could not be taken apart"


@frozen
class Known:
    """What a header is compared with.

    Attributes:
        app_id: ours, None where it is not set.
        app_secret: the same.
        now: Unix time in seconds.
    """

    app_id: int | None
    app_secret: str | None = field(repr=False)
    now: float


def unwrapped(pasted: str) -> str:
    r"""The value alone, of what somebody copied from a log, a command line or the document.

    >>> unwrapped("'Authorization: MTY5 \n NjA1'")
    'MTY5NjA1'
    """
    return _NAME.sub("", "".join(pasted.split()).strip("'\""), count=1).strip("'\"")


def explain(value: str, known: Known) -> Sequence[Finding]:
    """Look at each part by itself; all that can be checked is.

    Args:
        value: the header's.
        known: what it is compared with.

    Returns:
        ``base64``, ``parts``, ``appid``, ``timestamp`` and ``sign``. None of them holds a sign, or
        a secret; one that is not checked says why.
    """
    plain = _decoded(value)
    if not plain:
        advice = (
            "it was to be encoded in Base64 as a whole" if _NOT_ENCODED.fullmatch(value) else ""
        )
        found = "it is not Base64"
        failed = _failed("base64", found, advice or "was it copied whole, and nothing with it?")
        return [failed, *(skipped(name, _NOT_SPLIT) for name in ("parts", *_NAMES))]
    first = Finding("base64", Status.OK, "it can be decoded")
    parts = plain.split(":")
    if len(parts) != _PARTS:
        found = f"{len(parts)} part{'s' if len(parts) > 1 else ''}, not APPID:timestamp:sign"
        second = _failed("parts", found, "three parts, with a colon between them, are signed")
        return [first, second, *(skipped(name, _NOT_SPLIT) for name in _NAMES)]
    app_id, timestamp, sign = parts
    return [
        first,
        Finding("parts", Status.OK, "three, as in APPID:timestamp:sign"),
        _app_id(app_id, known),
        _timestamp(timestamp, known),
        _sign(app_id, timestamp, sign, known),
    ]


_NAMES: Final = ("appid", "timestamp", "sign")


def _failed(name: str, found: str, advice: str) -> Finding:
    return Finding(name, Status.FAILED, found, advice)


def _decoded(value: str) -> str | None:
    try:
        decoded = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    # As the signer: the decoder takes padding that is too much, and last bits that mean nothing.
    if base64.b64encode(decoded).decode() != value:
        return None
    return decoded.decode(errors="replace")


def _is_long(text: str) -> bool:
    return _LONG.fullmatch(text) is not None and int(text) <= _LONG_MAX


def _app_id(app_id: str, known: Known) -> Finding:
    if not _is_long(app_id):
        advice = "take the APPID from the platform's console"
        return _failed("appid", "it is not a whole number from 1 to 2**63 - 1", advice)
    if known.app_id is None:
        return skipped("appid", f"{app_id}; no QMC_APP_ID")
    if int(app_id) != known.app_id:
        found = f"{app_id} is another's; ours is {known.app_id}"
        return _failed("appid", found, "it was signed for another application")
    return Finding("appid", Status.OK, f"{app_id}, which is ours")


def _timestamp(timestamp: str, known: Known) -> Finding:
    advice = "milliseconds since 1970 are signed, such as 1693270226642"
    if not _is_long(timestamp):
        return _failed("timestamp", "it is no time in milliseconds", advice)
    seconds = int(timestamp) / 1000
    try:
        time = as_time(datetime.fromtimestamp(seconds, BEIJING))
    except (ValueError, OverflowError, OSError):
        return _failed("timestamp", f"{timestamp} is no time that a clock shows", advice)
    apart = seconds - known.now
    found = f"{timestamp} is {time} in Beijing, {_length(abs(apart))} "
    found += "from now" if apart > 0 else "ago"
    if abs(apart) <= TOLERANCE.total_seconds():
        return Finding("timestamp", Status.OK, found)
    if int(timestamp) in _SECONDS:
        return _failed("timestamp", found, f"these seem to be seconds: {advice}")
    advice = "set the clock right that signed it" if apart > 0 else "sign again for each request"
    return _failed("timestamp", found, f"at most five minutes are allowed: {advice}")


def _sign(app_id: str, timestamp: str, sign: str, known: Known) -> Finding:
    if not _SIGN.fullmatch(sign):
        found = "it is not 32 digits of a lower-case hexadecimal number"
        is_upper = _SIGN.fullmatch(sign.lower()) is not None
        advice = "write it in lower case" if is_upper else "the MD5 of APPID:APPSECRET:timestamp is"
        return _failed("sign", found, advice)
    if known.app_secret is None:
        return skipped("sign", "no QMC_APP_SECRET")
    if not (_is_long(app_id) and _is_long(timestamp)):
        return skipped("sign", "what it signs is no APPID and no timestamp")
    signer = Signer(Credentials(app_id, known.app_secret))
    header = base64.b64encode(f"{app_id}:{timestamp}:{sign}".encode())
    if isinstance(signer.verify(header, int(timestamp) / 1000), Refusal):
        found = "it does not fit our secret"
        advice = "another secret was used, or APPID or timestamp were changed afterwards"
        return _failed("sign", found, advice)
    return Finding("sign", Status.OK, "it fits our secret")


def _length(seconds: float) -> str:
    """A length of time, as coarse as it can be.

    >>> _length(12.4), _length(540), _length(7200 * 3), _length(86400 * 3)
    ('12 s', '9 min', '6 h', '3 days')
    """
    for most, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:,.0f} days"
