"""What a client is set to: arguments first, then ``QMC_*`` variables, then the document's values.

========================== ====================== ============================================
variable                   argument               meaning
========================== ====================== ============================================
``QMC_APP_ID``             ``app_id``             APPID, a Long (2)
``QMC_APP_SECRET``         ``app_secret``         APPSECRET (2)
``QMC_BASE_URL``           ``base_url``           where ``call`` and ``endCall`` are (3.0)
``QMC_RECORD_BASE_URL``    ``record_base_url``    where ``record`` is (3.3)
``QMC_RECORD_PATH``        ``record_path``        the document gives two (3.3)
``QMC_TIMEOUT``            ``timeout``            seconds that one attempt waits for the platform
``QMC_DEADLINE``           ``deadline``           seconds for all attempts and waits together
``QMC_MAX_RETRIES``        ``max_retries``        attempts after the first
``QMC_NUMBERS``            ``numbers``            ``strict``, ``lenient`` or ``off``
``QMC_MISSING_AFTER``      ``missing_after``      seconds until a notification is overdue
``QMC_LEDGER_NUMBERS``     ``ledger_numbers``     ``masked`` or ``whole``, in the ledger
``QMC_RECORDING_NETWORKS`` ``recording_networks`` networks such as ``10.0.0.0/8``, with commas,
                                                  that recordings may be fetched from
========================== ====================== ============================================
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar, cast, get_args
from urllib.parse import urlsplit

from attrs import evolve, frozen

from qmc_async.errors import ConfigError
from qmc_async.numbers import NumberMode
from qmc_async.signer import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


__all__ = [
    "BASE_URL",
    "RECORD_BASE_URL",
    "RECORD_PATH",
    "Network",
    "Settings",
    "read_networks",
    "whole_url",
]

T = TypeVar("T")

LedgerNumbers: TypeAlias = Literal["masked", "whole"]
"""How telephone numbers are written down in the ledger."""

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

BASE_URL: Final = "http://api.v3.quanmayun.com:9090"
RECORD_BASE_URL: Final = "http://record.v3.quanmayun.com:9090"
RECORD_PATH: Final = "/api/qmc-cdr/openapi/v1/record"

_LONGEST_CALL: Final = 2 * 86400.0  # seconds

_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
# A name, or four numbers: what ends in a number and is no address is neither.
_HOST = re.compile(
    rf"(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?!$)|$)){{4}}|(?:{_LABEL}\.)*(?=.*[a-z]){_LABEL}\.?",
    re.ASCII,
)
_NUMBER_MODES: Final[dict[str, NumberMode]] = {
    "strict": "strict",
    "lenient": "lenient",
    "off": "off",
}


@frozen(kw_only=True)
class Settings:
    """A client's settings, each of them valid. See the module's table."""

    credentials: Credentials
    base_url: str
    record_base_url: str
    record_path: str
    timeout: float
    deadline: float
    max_retries: int
    numbers: NumberMode
    missing_after: float
    ledger_numbers: LedgerNumbers
    recording_networks: tuple[Network, ...]

    @classmethod
    def load(
        cls,
        *,
        app_id: int | str | None = None,
        app_secret: str | None = None,
        base_url: str | None = None,
        record_base_url: str | None = None,
        record_path: str | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        max_retries: int | None = None,
        numbers: NumberMode | None = None,
        missing_after: float | None = None,
        ledger_numbers: LedgerNumbers | None = None,
        recording_networks: str | Iterable[str | Network] | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Settings:
        """Take each setting from its argument, its variable or its default, in this order.

        Raises:
            ConfigError: a setting is missing or malformed; it names the argument or the variable.
        """

        def pick(argument: str, given: object, check: Callable[[Any], T], default: object) -> T:
            return _pick(argument, given, check, default, environ)

        return cls(
            credentials=Credentials(
                pick("app_id", app_id, _app_id, None),
                pick("app_secret", app_secret, _app_secret, None),
            ),
            base_url=pick("base_url", base_url, whole_url, BASE_URL),
            record_base_url=pick("record_base_url", record_base_url, whole_url, RECORD_BASE_URL),
            record_path=pick("record_path", record_path, _path, RECORD_PATH),
            timeout=pick("timeout", timeout, _positive_seconds, 10.0),
            deadline=pick("deadline", deadline, _positive_seconds, 30.0),
            max_retries=pick("max_retries", max_retries, _count, 2),
            numbers=pick("numbers", numbers, _number_mode, "lenient"),
            missing_after=pick("missing_after", missing_after, _missing_after, 7200.0),
            ledger_numbers=pick("ledger_numbers", ledger_numbers, _ledger_numbers, "masked"),
            recording_networks=pick("recording_networks", recording_networks, read_networks, ""),
        )

    def changed(
        self,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        max_retries: int | None = None,
        numbers: NumberMode | None = None,
    ) -> Settings:
        """A copy in which what is not None is replaced.

        Raises:
            ConfigError: as `load`.
        """

        def pick(argument: str, given: object, check: Callable[[Any], T], current: T) -> T:
            return _pick(argument, given, check, current, {})

        return evolve(
            self,
            timeout=pick("timeout", timeout, _positive_seconds, self.timeout),
            deadline=pick("deadline", deadline, _positive_seconds, self.deadline),
            max_retries=pick("max_retries", max_retries, _count, self.max_retries),
            numbers=pick("numbers", numbers, _number_mode, self.numbers),
        )


def _pick(
    argument: str,
    given: object,
    check: Callable[[Any], T],
    default: object,
    environ: Mapping[str, str],
) -> T:
    variable = f"QMC_{argument.upper()}"
    if given is not None:
        setting, value = argument, given
    elif environ.get(variable, "").strip():
        setting, value = variable, environ[variable].strip()
    elif default is None:
        raise ConfigError(
            f"{variable} is not set: set it to the value on the platform's console, "
            f"or pass {argument}=",
            setting=variable,
        )
    else:
        setting, value = argument, default
    try:
        return check(value)
    except (TypeError, ValueError, OverflowError) as error:
        problem = str(error)
    raise ConfigError(f"{setting}: {problem}", setting=setting)


def _app_id(value: int | str) -> int:
    return Credentials(value, "checked on its own").app_id


def _app_secret(value: str) -> str:
    return Credentials(1, value).app_secret


def whole_url(value: str) -> str:
    """Check an address, and take the slash off its end.

    Raises:
        ValueError: it is no whole address, or holds what it must not.
    """
    _check_characters(value)  # urlsplit drops tabs and line breaks in silence
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it must be a whole address such as http://api.v3.quanmayun.com:9090")
    if "@" in parts.netloc or "?" in value or "#" in value:
        raise ValueError("it must hold no user name, no query and no fragment")
    if "[" in parts.netloc:
        ipaddress.IPv6Address(parts.hostname)
    elif not _HOST.fullmatch(parts.hostname):
        raise ValueError("its host is neither a name nor an address")
    if parts.port == 0:
        raise ValueError("its port must be between 1 and 65535")
    return value.rstrip("/")


def _path(value: str) -> str:
    _check_characters(value)
    if not value.startswith("/") or "?" in value or "#" in value:
        raise ValueError("it must start with / and hold no query")
    if {".", ".."} & set(value.split("/")):
        raise ValueError("it must hold no . and .. between slashes: they would be taken away")
    return value


def _check_characters(value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"it must be a str, not {type(value).__name__}")
    if not (value.isascii() and value.isprintable()) or any(c in value for c in ' "<>\\^`{|}'):
        raise ValueError(
            'it must be plain ASCII, without spaces, control characters and "<>\\^`{|}'
        )


def _positive_seconds(value: float | str) -> float:
    problem = ValueError("it must be a number of seconds above 0")
    if isinstance(value, bool | bytes):
        raise problem
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        raise problem from None
    if not 0 < seconds < math.inf:
        raise problem
    return seconds


def _missing_after(value: float | str) -> float:
    seconds = _positive_seconds(value)
    if seconds > _LONGEST_CALL:
        raise ValueError(
            f"it must be at most {_LONGEST_CALL:g} seconds: recordings are gone after three days"
        )
    return seconds


def _ledger_numbers(value: object) -> LedgerNumbers:
    for known in get_args(LedgerNumbers):
        if value == known:
            return cast("LedgerNumbers", known)
    raise ValueError("it must be masked or whole")


def read_networks(value: str | Iterable[str | Network]) -> tuple[Network, ...]:
    """Networks and addresses, with commas or as a list.

    Raises:
        TypeError: it is neither.
        ValueError: one of them is none.
    """
    given = value.split(",") if isinstance(value, str) else value
    texts = (str(each).strip() for each in given)
    # Not `ip_network` of what is given: it takes a number for an address.
    return tuple(ipaddress.ip_network(text) for text in texts if text)


def _count(value: object) -> int:
    text = value if isinstance(value, str) else repr(value) if value in range(1000) else ""
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 4):  # noqa: PLR2004 - 999 retries are a slip
        raise ValueError("it must be a whole number from 0 to 999")
    return int(text)


def _number_mode(value: object) -> NumberMode:
    mode = _NUMBER_MODES.get(value) if isinstance(value, str) else None
    if mode is None:
        raise ValueError("it must be strict, lenient or off")
    return mode
