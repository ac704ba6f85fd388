"""Telephone numbers: what people type, what is dialled, and what is shown."""

from __future__ import annotations

import re
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qmc_async.errors import ArgumentError
from qmc_async.numbers import NumberMode, mask, mask_in_text, normalise

_ANY_TEXT = st.text(st.characters())  # lone surrogates and NUL included
_TYPED = st.text("0123456789+-() ０８６－", max_size=26)
_PREFIX = st.sampled_from(["", "+86", "0086", "86", "+86 0", "+852", "00", "010-", "0755", "400"])
_SIXTY_FOUR_KIB = 64 * 1024

# What is typed, and what is dialled. Written by hand from China's numbering plan.
_IN_PLAN = [
    ("13987654321", "13987654321"),
    (" 13987654321", "13987654321"),  # the document's own example (3.1) has this space
    ("139 8765 4321", "13987654321"),
    ("139-8765-4321", "13987654321"),
    ("139.8765.4321", "13987654321"),
    ("139\u00a08765\u00a04321", "13987654321"),  # no-break spaces, from a web page
    ("139\u20148765\u20144321", "13987654321"),  # dashes, from a word processor
    ("\u2068139 8765 4321\u2069", "13987654321"),
    ("\ufeff13987654321\u200f", "13987654321"),
    ("\u202d13987654321\u202c", "13987654321"),  # direction marks, from a telephone's contacts
    ("１３９８７６５４３２１", "13987654321"),
    ("１３９－８７６５－４３２１", "13987654321"),
    ("13987654321\r\n", "13987654321"),
    ("+8613987654321", "13987654321"),
    ("＋８６ 139 8765 4321", "13987654321"),
    ("+86-139-8765-4321", "13987654321"),
    ("(+86) 139 8765 4321", "13987654321"),
    ("（+86）13987654321", "13987654321"),
    ("8613987654321", "13987654321"),
    ("86 139 8765 4321", "13987654321"),
    ("008613987654321", "13987654321"),
    ("0086 139-8765-4321", "13987654321"),
    ("010-62345678", "01062345678"),
    ("(010) 6234 5678", "01062345678"),
    ("+86 10 6234 5678", "01062345678"),
    ("+86 (0)10 6234 5678", "01062345678"),
    ("86 10 6234 5678", "01062345678"),
    ("0086 10 62345678", "01062345678"),
    ("021-62345678", "02162345678"),
    ("+86 21 6234 5678", "02162345678"),
    ("0755-82343388", "075582343388"),
    ("0755 1234 3388", "075512343388"),
    ("（０７５５）82343388", "075582343388"),
    ("+86 755 8234 3388", "075582343388"),
    ("+86 (0)755 8234 3388", "075582343388"),
    ("0086 755 8234 3388", "075582343388"),
    ("0539-8234567", "05398234567"),  # a four-digit area code and seven digits
    ("+86 539 8234567", "05398234567"),
    ("400-810-1234", "4008101234"),
    ("+86 400 810 1234", "4008101234"),
    ("800-810-1234", "8008101234"),
]

# What is typed, and what lenient dials: strict refuses these.
_OUT_OF_PLAN = [
    ("95588", "95588"),
    ("+86 95588", "95588"),
    ("10086", "10086"),
    ("110", "110"),
    ("82343388", "82343388"),  # no area code: whose town is it?
    ("86123456", "86123456"),  # a local number that begins like a country code
    ("12345678901", "12345678901"),  # 2 is no second digit of a mobile number
    ("1398765432", "1398765432"),  # a digit short
    ("139876543210", "139876543210"),  # a digit long
    ("15487654321", "15487654321"),  # 154 is given to nobody
    ("154-8765-4321", "15487654321"),
    ("+852 2345 6789", "+85223456789"),  # Hong Kong
    ("00852 2345 6789", "0085223456789"),
    ("+1 650 253 0000", "+16502530000"),
    ("1008600861234", "1008600861234"),  # 0086 in its middle is no country code
    ("0755008612345678", "0755008612345678"),
    ("+000", "+000"),
    ("001", "001"),
    ("12345678901234567890", "12345678901234567890"),
    ("+99999999999999999999", "+99999999999999999999"),
]

_UNDIALLABLE = [
    "12",
    "+",
    "+1",
    "123456789012345678901",
    "1391234567x",
    "0755-12343388 ext 101",
    "075512343388,101",
    "075512343388#101",
    "139*1234567",
    "13912345678/13987654321",
    "13912345678\x00",
    "139+12345678",
    "++8613912345678",
    "电话13912345678",
    "١٣٩١٢٣٤٥٦٧٨",  # digits, but not those of a telephone
    "\ud80013912345678",
    "NaN",
]

_EMPTY = ["", " ", "\t\r\n", "()", "-", "\u3000", "\u200b"]


def _normalise_anything(number: Any, **options: Any) -> str:  # noqa: ANN401 - callers err
    return normalise(number, **options)


def _digits(text: str) -> int:
    return len(re.findall(r"[0-9]", unicodedata.normalize("NFKC", text)))


@pytest.mark.parametrize("mode", ["strict", "lenient"])
@pytest.mark.parametrize(("typed", "dialled"), _IN_PLAN)
def test_in_plan(typed: str, dialled: str, mode: NumberMode) -> None:
    """However a number of the numbering plan is typed, strict and lenient dial it the same."""
    assert normalise(typed, mode) == dialled


@pytest.mark.parametrize(("typed", "dialled"), _OUT_OF_PLAN)
def test_out_of_plan_lenient(typed: str, dialled: str) -> None:
    """Lenient, the default, tidies a number that it does not know, and drops no digit of it."""
    assert normalise(typed, "lenient") == dialled
    assert normalise(typed) == dialled


@pytest.mark.parametrize("typed", [typed for typed, _ in _OUT_OF_PLAN])
def test_out_of_plan_strict(typed: str) -> None:
    """Strict refuses what is not in the plan, names the argument, and does not show the number."""
    with pytest.raises(ArgumentError, match=r"^callee .*numbering plan") as caught:
        normalise(typed, "strict", argument="callee")
    assert caught.value.argument == "callee"
    shown = str(caught.value)
    assert re.sub(r"[^0-9]", "", typed) not in re.sub(r"[^0-9]", "", shown)


@pytest.mark.parametrize("mode", ["strict", "lenient"])
@pytest.mark.parametrize("typed", _UNDIALLABLE)
def test_undiallable(typed: str, mode: NumberMode) -> None:
    """What no telephone can dial is refused, with the argument's name and without the value."""
    with pytest.raises(ArgumentError, match=r"^caller cannot be dialled") as caught:
        normalise(typed, mode, argument="caller")
    assert caught.value.argument == "caller"
    assert typed not in str(caught.value).replace("+86", "")
    assert _digits(str(caught.value)) == len("320" + "86")


@pytest.mark.parametrize("mode", ["strict", "lenient"])
@pytest.mark.parametrize("typed", _EMPTY)
def test_empty(typed: str, mode: NumberMode) -> None:
    """Nothing, and nothing but separators, is refused as empty."""
    with pytest.raises(ArgumentError, match=r"^callee is empty") as caught:
        normalise(typed, mode, argument="callee")
    assert caught.value.argument == "callee"


@pytest.mark.parametrize("typed", ["", "\n", "1391234\x005678", "\ud800"])
def test_off_refuses_what_cannot_be_sent(typed: str) -> None:
    """Even `off` rings nobody who has no number."""
    with pytest.raises(ArgumentError, match=r"^number must be printable") as caught:
        normalise(typed, "off")
    assert caught.value.argument == "number"


@pytest.mark.parametrize("typed", ["13912345678", "139 1234 5678"])
def test_a_mode_that_does_not_exist(typed: str) -> None:
    """A slip in the mode is said, not taken for the default."""
    with pytest.raises(ArgumentError, match="strict, lenient, off") as caught:
        normalise(typed, "lenent")  # type: ignore[arg-type]  # the slip
    assert caught.value.argument == "mode"


@given(_ANY_TEXT.filter(bool).filter(str.isprintable))
@example(" +86 139-8765-4321 ")
@example("13987654321")
@example("sip:alice@example.com")
def test_off_sends_what_it_is_given(typed: str) -> None:
    """`off` changes nothing at all."""
    assert normalise(typed, "off") == typed


@pytest.mark.parametrize("mode", ["strict", "lenient", "off"])
@pytest.mark.parametrize("value", [13912345678, 95588, 1.5, True, None, b"13912345678", ["1"]])
def test_not_a_string(value: object, mode: NumberMode) -> None:
    """A number that is no str is refused in every mode: the message names the type only."""
    with pytest.raises(ArgumentError, match=r"^callee must be a str, not \w+: ") as caught:
        _normalise_anything(value, mode=mode, argument="callee")
    assert caught.value.argument == "callee"
    assert type(value).__name__ in str(caught.value)
    assert repr(value) not in str(caught.value).replace(type(value).__name__, "")


@settings(deadline=None)
@given(_ANY_TEXT | _TYPED | st.tuples(_PREFIX, _TYPED).map("".join))
@example("+860086123456")
@example("+86 86 139 8765 4321")
@example("008600860086123")
@example("+000")
@example("001")
@example("9" * 5000)
@example("²" * 11)
def test_normalise_is_idempotent(typed: str) -> None:
    """Lenient raises nothing but `ArgumentError`, and leaves alone what it has made."""
    try:
        once = normalise(typed)
    except ArgumentError:
        return
    assert re.fullmatch(r"\+?[0-9]{3,20}", once)
    assert normalise(once) == once


@settings(deadline=None)
@given(_ANY_TEXT | _TYPED | st.tuples(_PREFIX, _TYPED).map("".join))
def test_strict_takes_no_more_than_lenient(typed: str) -> None:
    """Strict raises nothing but `ArgumentError`; what it takes, lenient makes the same of."""
    try:
        strictly = normalise(typed, "strict")
    except ArgumentError:
        return
    assert normalise(typed, "lenient") == strictly
    assert normalise(strictly, "strict") == strictly


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        ("13912345678", "139****5678"),
        (" 139-1234-5678 ", "139****5678"),
        ("１３９１２３４５６７８", "139****5678"),
        ("+8613912345678", "139****5678"),
        ("+86 139 1234 5678", "139****5678"),
        ("008613912345678", "139****5678"),
        ("13900861234", "139****1234"),  # 0086 in its middle is no country code
        ("075512343388", "0755****3388"),
        ("0755-1234 3388", "0755****3388"),
        ("+86 0755 1234 3388", "0755****3388"),
        ("05391234567", "0539****4567"),
        ("0755123456", "075****3456"),  # ten digits: a fourth would leave two to guess
        ("01062345678", "010****5678"),
        ("010-6234 5678", "010****5678"),
        ("02162345678", "021****5678"),
        ("+86 10 6234 5678", "106****5678"),
        ("4008101234", "400****1234"),
        ("400-810-1234", "400****1234"),
        ("+85223456789", "852****6789"),
        ("123/456.7_8,9x0", "123****7890"),  # what is no digit does not count as hidden
        ("12343388", "****88"),
        ("1234567", "****67"),
        ("123456789", "****89"),
        ("123456", "****"),
        ("95588", "****"),
        ("110", "****"),
        ("0", "****"),
        ("+", "****"),
        ("+86", "****"),
        ("", "****"),
        (" ", "****"),
        ("a", "****"),
        ("sip:alice@example.com", "****"),
        ("\ud800\x00", "****"),
    ],
)
def test_mask(number: str, shown: str) -> None:
    """A masked number shows its kind and its last digits; a short one shows next to nothing."""
    assert mask(number) == shown


@given(
    _ANY_TEXT
    | _TYPED
    | st.tuples(_PREFIX, _TYPED).map("".join)
    | st.text("0123456789", min_size=7, max_size=13)
)
@example("0755123456")
@example("123+++4567")
@example("1/2/3/4/567")
@example("+861234567")
def test_mask_hides(number: str) -> None:
    """Mask takes any text, shows eight digits at most, and hides three of seven or more."""
    shown = _digits(mask(number))
    assert shown <= 8
    if (typed := _digits(number)) >= 7:
        assert typed - shown >= 3
    assert re.fullmatch(r"[0-9]{0,4}\*{4}[0-9]{0,4}", mask(number))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("号码13912345678不存在", "号码139****5678不存在"),
        ("13912345678", "139****5678"),
        ("+8613912345678 busy", "139****5678 busy"),
        ("caller=139 1234 5678;", "caller=139****5678;"),
        ("0755-12343388 is out of service", "0755****3388 is out of service"),
        ("13912345678 13987654321", "139****5678 139****4321"),
        ("13912345678,13987654321", "139****5678,139****4321"),
        ("20230 13912345678", "20230 139****5678"),
        ("caller13912345678busy", "caller139****5678busy"),
        ("tel8613912345678x", "tel861****5678x"),
        ("local 12343388", "local ****88"),
        ("code 500, 3 times", "code 500, 3 times"),
        ("id 1696054309969104898", "id 1696054309969104898"),  # nineteen digits are an identifier
        ("id a1234567b", "id a1234567b"),
        ("操作成功", "操作成功"),
        ("", ""),
    ],
)
def test_mask_in_text(text: str, shown: str) -> None:
    """In a text from outside, numbers are masked and everything else stays."""
    assert mask_in_text(text) == shown


_AROUND = _ANY_TEXT.map(lambda text: unicodedata.normalize("NFKC", text)).filter(
    lambda text: not re.search(r"[0-9]", text) and unicodedata.is_normalized("NFKC", f"1{text}1")
)


@given(st.from_regex(r"1[3-9][0-9]{9}", fullmatch=True), _AROUND, _AROUND)
@example("13912345678", "a", "b")
def test_no_mobile_number_shows_in_text(number: str, before: str, after: str) -> None:
    """Whatever stands around a mobile number, letters too, it is masked, and the rest is kept."""
    assert mask_in_text(before + number + after).replace("+", "") == (
        f"{before}{number[:3]}****{number[-4:]}{after}".replace("+", "")
    )


@pytest.mark.parametrize(
    "unit", ["1-", "1 ", "1", "-", "(", "+86", "0086", "86", "13", "ﷺ", "\x00"]
)
def test_long_input_is_cheap(unit: str) -> None:
    """64 KiB of anything are refused and masked at once: no pattern backtracks into minutes."""
    text = unit * (_SIXTY_FOUR_KIB // len(unit))
    started = time.perf_counter()
    with pytest.raises(ArgumentError):
        normalise(text)
    mask(text)
    mask_in_text(text)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    "shown",
    [
        "１３９１２３４５６７８",
        "139.1234.5678",
        "139/1234/5678",
        "139--1234--5678",
        "139_1234_5678",
        "139,1234,5678",
        "139 1234\u00a05678",
        "1391234567８",
        "(0755) 1234-3388",
        "139\u200b12345678",
    ],
)
def test_disguises_in_text(shown: str) -> None:
    """However people, or a platform, write a number into a sentence, it is masked."""
    masked = unicodedata.normalize("NFKC", mask_in_text(f"号码 {shown} 不存在"))
    assert "****" in masked
    assert "12345678" not in re.sub(r"[^0-9]", "", masked)
    assert "12343388" not in re.sub(r"[^0-9]", "", masked)
