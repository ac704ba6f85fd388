"""Telephone numbers: what a person types to what the platform takes, and what may be shown.

The platform's document (3.1) shows mobile numbers of eleven digits and says no more. That
landlines are written with their area code (``075512343388``) and 400 numbers as they are, is
assumed.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal, TypeAlias, get_args

from qmc_async.errors import ArgumentError

__all__ = ["NumberMode", "mask", "mask_in_text", "normalise"]

NumberMode: TypeAlias = Literal["strict", "lenient", "off"]
"""How `normalise` treats a number.

``strict`` takes only numbers that exist in China's numbering plan, ``lenient`` tidies and refuses
only what cannot be dialled at all, ``off`` sends what it is given.
"""

_MODES = get_args(NumberMode)
_MOBILE = re.compile(r"1[3-9][0-9]{9}", re.ASCII)
# What people put between digits. NFKC has already made full-width signs and no-break spaces plain.
# The last ranges cannot be seen: telephones copy a contact with marks of direction around it.
_SEPARATORS = re.compile(
    r"[\s().\-\u2010-\u2015\u2212\u00b7\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]+"
)
_NO_DIGIT = re.compile(r"[^0-9]+")
_DIALLABLE = re.compile(r"\+?[0-9]{3,20}", re.ASCII)
_COUNTRY_CODE = re.compile(r"\A(?:\+|00)86(?=[0-9]{3})", re.ASCII)
_IN_TEXT = re.compile(
    # Seven to fifteen digits, with at most two separators between any two; longer runs are ids.
    r"(?<![0-9A-Za-z])\+?[0-9](?:[\s.,/_()\-\u2010-\u2015\u00b7\u200b-\u200f\u202a-\u202e\ufeff]{0,2}"
    r"[0-9]){6,14}(?![0-9A-Za-z])"
    r"|(?<![0-9])(?:86)?1[3-9][0-9]{9}(?![0-9])",  # a mobile number with letters right beside it
    re.ASCII,
)


def normalise(number: str, mode: NumberMode = "lenient", *, argument: str = "number") -> str:
    """Turn what a person types into what the platform dials.

    >>> normalise("+86 139-8765-4321")
    '13987654321'
    >>> normalise("０７５５ １２３４ ３３８８")
    '075512343388'

    Args:
        number: spaces, hyphens, brackets, full-width digits and +86, 0086 or 86 are understood.
        mode: see `NumberMode`.
        argument: the name to use in the error.

    Raises:
        ArgumentError: it is no string, is empty, or is not acceptable in this mode.
    """
    if not isinstance(number, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers err
        raise ArgumentError(
            f"{argument} must be a str, not {type(number).__name__}: "
            "as a number it would lose its leading zeros",
            argument=argument,
        )
    if mode not in _MODES:
        raise ArgumentError(f"mode must be one of {', '.join(_MODES)}", argument="mode")
    if mode != "strict" and _MOBILE.fullmatch(number):
        return number
    if mode == "off":
        if not number or not number.isprintable():
            raise ArgumentError(f"{argument} must be printable, and not empty", argument=argument)
        return number
    tidy = _SEPARATORS.sub("", unicodedata.normalize("NFKC", number))
    if not tidy:
        raise ArgumentError(f"{argument} is empty: give a number to ring", argument=argument)
    if not _DIALLABLE.fullmatch(tidy):
        raise ArgumentError(
            f"{argument} cannot be dialled: it must be 3 to 20 digits, with spaces, hyphens or +86 "
            "at most (an extension cannot be given)",
            argument=argument,
        )
    national = _in_numbering_plan(tidy)
    if national is not None:
        return national
    if mode == "strict":
        raise ArgumentError(
            f"{argument} {mask(tidy)} is not in China's numbering plan: check it, write a landline "
            'with its area code, or pass numbers="lenient"',
            argument=argument,
        )
    bare = _COUNTRY_CODE.sub("", tidy)
    # Once more where +86 was taken off: "+86 86 139..." hides a number that the plan has.
    return tidy if bare == tidy else normalise(bare, mode, argument=argument)


def _in_numbering_plan(tidy: str) -> str | None:
    """The number as it is dialled within China, None where the plan does not have it."""
    import phonenumbers  # noqa: PLC0415 - 25 ms that a program with plain numbers need not pay

    # "00" is China's international prefix, so that the library reads 0086 and 00852 by itself.
    try:
        parsed = phonenumbers.parse(tidy, "CN")
    except phonenumbers.NumberParseException:  # "+000", or nothing after "00"
        return None
    if parsed.country_code != 86 or not phonenumbers.is_valid_number(parsed):  # noqa: PLR2004 - +86
        return None
    national = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.NATIONAL)
    return _SEPARATORS.sub("", national)


def mask(number: str) -> str:
    """Show enough of a number to recognise it, and too little to dial it.

    >>> mask("13912345678"), mask("0755-1234 3388")
    ('139****5678', '0755****3388')
    """
    tidy = _SEPARATORS.sub("", unicodedata.normalize("NFKC", number))
    # What is no digit neither counts nor shows: "139/1234/5678" must hide as much as any other.
    digits = _NO_DIGIT.sub("", _COUNTRY_CODE.sub("", tidy))
    if len(digits) < 10:  # noqa: PLR2004 - too short to hide four digits and show more than a few
        return "****" + digits[-2:] if len(digits) >= 7 else "****"  # noqa: PLR2004 - see above
    # An area code is 010, 02x or four digits; a mobile's or 400 number's first three are its kind.
    # Of ten digits, four and the last four would leave only two to guess.
    shown = 4 if len(digits) > 10 and digits[0] == "0" and digits[1] not in "12" else 3  # noqa: PLR2004 - see above
    return f"{digits[:shown]}****{digits[-4:]}"


def mask_in_text(text: str) -> str:
    """Mask whatever looks like a telephone number in a text that came from outside.

    >>> mask_in_text("号码13912345678不存在")
    '号码139****5678不存在'
    """
    plain = unicodedata.normalize("NFKC", text)
    return _IN_TEXT.sub(lambda found: mask(found[0]), plain)
