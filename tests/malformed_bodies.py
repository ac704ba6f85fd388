"""Hostile bodies of notifications, each with a name; the same ones in every run.

A body's name is also its call id and its `outCallId`, as far as that field is not what is wrong
with it. So no two of them are the same notification, and each must be kept.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

Named: TypeAlias = "tuple[str, bytes]"

STATUS = "Disconnected"
WHOLE = {
    "callidentifier": "128754716574532539",
    "status": STATUS,
    "endTime": "2023-08-29 08:52:10",
    "startTime": "2023-08-29 08:50:30",
    "answerTime": "2023-08-29 08:50:41",
    "reason": "HangUp",
    "callDuration": "89",
    "recordingResult": "success",
    "outCallId": "order-42",
}
FIELDS = (*WHOLE, "extra")
"""What the document (3.2) has, and one that it has not."""

LONGEST = 64 * 1024
FORGED = "CRITICAL qmc_async: forged"
"""What a body would write into the log if it could begin a line."""


def members(mark: str, field: str = "", raw: str | bytes = b"") -> list[bytes]:
    """The members of a notification; one field's JSON is put in as it is given."""
    texts = {name: json.dumps(value).encode() for name, value in WHOLE.items()}
    texts["callidentifier"] = texts["outCallId"] = json.dumps(mark).encode()
    if field:
        texts[field] = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    return [b'"%b":%b' % (name.encode(), text) for name, text in texts.items()]


def notification(mark: str, field: str = "", raw: str | bytes = b"") -> bytes:
    """A notification that is right but for one field."""
    return b"{" + b",".join(members(mark, field, raw)) + b"}"


def _in_every_field(values: Iterable[tuple[str, str | bytes]]) -> Iterator[Named]:
    for label, raw in values:
        for field in FIELDS:
            mark = f"{label} in {field}"
            yield mark, notification(mark, field, raw)


# --- what is no JSON ---------------------------------------------------------------------------

_STRUCTURE = b'{}":,'


def cut_short() -> Iterator[Named]:
    """It ends before or behind any of the characters that make the structure."""
    whole = notification("cut short")
    places = {at + more for at, byte in enumerate(whole) if byte in _STRUCTURE for more in (0, 1)}
    for place in sorted(places - {0, len(whole)}):
        yield f"cut short at {place}", whole[:place]


def out_of_place() -> Iterator[Named]:
    """One character of the structure is missing, there twice, or another."""
    chance = random.Random(1)  # noqa: S311 - repeatable, and no secret
    for at, byte in enumerate(notification("out of place 000")):
        if byte not in _STRUCTURE:
            continue
        other = chance.choice(b"{}[]\":,'\\\0")
        for label, put in (("lost", b""), ("twice", bytes([byte] * 2)), ("other", bytes([other]))):
            mark = f"out of place {at:03}"
            whole = notification(mark)
            yield f"{label} at {at}", whole[:at] + put + whole[at + 1 :]


_NO_VALUES = (
    *("", "undefined", "None", "True", "nil", "'x'", "`x`", "x", "“x”", "/x/", "(1)", "<x/>"),
    *("+1", "01", "1.", ".5", "1e", "1e+", "0x10", "0b1", "1_000", "1,5", "--1", "- 1", "１", "٣"),
    *('"x', 'x"', r'"\x41"', r'"\'"', r'"\u12"', r'"\u+123"', r'"\u 123"', r'"\U00000041"'),
    *('"a" "b"', '"a"+"b"', "[1,]", "[,1]", "[1", "1]", '{"a":1,}', '{"a"}', "{a:1}", '{"a":}'),
    *('{"a":1', "[1}", '"x" // y', '"x" /* y */', '"x" # y', "/**/", "new Date(0)", r'"\"', "@x"),
)


def no_values() -> Iterator[Named]:
    """A field holds what other languages would take."""
    yield from _in_every_field((f"no value {at}", raw) for at, raw in enumerate(_NO_VALUES))


def no_objects() -> Iterator[Named]:
    """The body as a whole is something else, or has something around it."""
    whole = notification("no object")
    text = whole.decode()
    for at, other in enumerate(
        (
            *("", " ", "\r\n", "\t" * 100, "\0", "\0" * LONGEST, "null", "true", "0", "-", '"'),
            *("NaN", "[]", "[[]]", '"Disconnected"', f"[{text}]", json.dumps(text), text + text),
            *(f"{text}\n{text}", f"{text},", f",{text}", f"{text};", f"{text}\0", f"\0{text}"),
            *(f"cb({text})", f")]}}',\n{text}", f"data: {text}\n\n", f"// x\n{text}", f"{text}}}"),
            *(f"\x0c{text}", f"\u00a0{text}", f"\u200b{text}", f"{text}\x1a", f"\x1e{text}\n"),
            *(text.replace('"', "'"), text.replace('"', "“"), text.replace(":", "=")),
            *(text.replace(",", ";"), text.replace('"', ""), text.replace("{", "(")),
            *(text.replace('","', '",,"'), text.replace("}", ",}"), text.replace("{", "{,")),
            *(text.replace(",", ", // x\n", 1), text.replace(",", "/* x */,", 1)),
            *("callidentifier=1&status=Disconnected", "<?xml version='1.0'?><status/>", "a: 1\n"),
            *("--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--", "%7B%7D", "\x1f\x8b\x08"),
            *("POST / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "PRI * HTTP/2.0"),
        )
    ):
        yield f"no object {at}", other.encode()


# --- what is no text ---------------------------------------------------------------------------

_NO_UTF_8 = {
    "a byte that never is": b"\xff",
    "a continuation": b"\x80",
    "half a character": b"\xc3",
    "overlong solidus": b"\xc0\xaf",
    "overlong in three": b"\xe0\x80\xaf",
    "overlong in four": b"\xf0\x80\x80\xaf",
    "overlong NUL": b"\xc0\x80",
    "overlong quotation mark": b"\xc0\xa2",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "an encoded surrogate": b"\xed\xa0\x80",
    "CESU-8": b"\xed\xa0\xbd\xed\xb8\x80",
}
_SURROGATES = (r"\ud800", r"\udfff", r"\udc00\ud800", r"\ud83d\ud83d", r"\uD83Dx", r"\ud800\u0041")
_ENCODINGS = (
    *("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"),
    *("utf-7", "gbk", "gb18030", "big5", "shift-jis", "cp037", "hz"),
)


def encodings() -> Iterator[Named]:
    """It is JSON, but in another encoding, or with marks of byte order."""
    for name in _ENCODINGS:
        text = notification(name, "reason", '"挂断"').decode()
        yield name, text.encode(name, "replace")
        yield f"{name} cut", text.encode(name, "replace")[:-1]
    for count in (2, 3):
        yield f"{count} marks", b"\xef\xbb\xbf" * count + notification(f"{count} marks")
    yield "a mark behind", notification("a mark behind") + b"\xef\xbb\xbf"
    yield "a mark inside", b"{\xef\xbb\xbf" + notification("a mark inside")[1:]
    yield "half a mark", b"\xef\xbb" + notification("half a mark")
    yield "only a mark", b"\xef\xbb\xbf"


def no_text() -> Iterator[Named]:
    """A field holds bytes that are no UTF-8, or half of a pair of surrogates."""
    yield from _in_every_field((label, b'"%b"' % raw) for label, raw in _NO_UTF_8.items())
    yield from _in_every_field((f"surrogate {text[1:]}", f'"{text}"') for text in _SURROGATES)


# --- what is JSON, and hostile -----------------------------------------------------------------

_NUMBERS = (
    *("NaN", "Infinity", "-Infinity", "-NaN", "0", "-0", "-0.0", "1", "-1", "1.5", "1e3", "1E+2"),
    *("1e400", "-1e400", "1e-400", "1e999999999", "1e-999999999", "1e308", "5e-324", "0e999"),
    *(str(2**63 - 1), str(2**63), str(2**64 - 1), str(2**64), str(-(2**63)), str(-(2**63) - 1)),
    *(str(10**400), str(-(10**400)), "9" * 4301, "9" * 20_000, "0." + "3" * 5000, "1" + "0" * 308),
)
_TYPES = (
    *("null", "true", "false", "[]", "{}", '[""]', '["x"]', "[null]", "[[[]]]", '{"a":"x"}'),
    *('{"a":{"b":[{}]}}', '[{"status":"Disconnected"}]', '""', '" "', '"\\t\\r\\n"', '"\\u3000"'),
)
NAUGHTY = (
    *("\0", "a\0b", "\x01", "\x07\x08", "\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "\x9b31m"),
    *("\x7f", f"\r\n{FORGED}", f"\n{FORGED}", f"\r{FORGED}", f"\x85{FORGED}", f"\u2028{FORGED}"),
    *(f"\u2029{FORGED}", f"\x0b{FORGED}", f"\x0c{FORGED}", f"\x1c{FORGED}", "%0d%0aforged: yes"),
    *("\u202e0001\u202c", "\u2066x\u2069", "\u200f\u200e", "\u200b", "\ufeff", "\u00ad", "\ufffe"),
    *("مرحبا", "שלום", "😀", "👩\u200d👧\u200d👦", "🇨🇳", "e\u0301", "\u0300" * 900, "𝒜"),
    *("Z\u0335\u0321\u0334\u030f" * 40, "ﷺ" * 500, "ﬁ", "ß", "İ", "ı", "\u212a", "\U0010ffff"),
    *("abc", "ABC", "aBc", "abc ", " abc", "ａｂｃ", "Ａｂｃ", "a" * 64, "a" * 65, "*", "_"),
    *("' OR 1=1 --", "'; DROP TABLE qmc_events; --", "a" * 200, "a" * 201, "a" * 255, "a" * 256),
    *('"', "\\", "\\'", "\\0", "`id`", "$(id)", "|id", "<!--", "]]>", "&lt;", "<img src=x>"),
    *("<script>alert(1)</script>", "javascript:alert(1)", "{0.__class__}", "{}", "{{7*7}}", "%"),
    *("%s%s%s%n", "%(call_id)s", "%d", "${jndi:ldap://x/y}", "../../etc/passwd", "..\\..\\x"),
    *("/dev/null", "C:\\CON", "file:///etc/passwd", "~", "~~", "a~b", "~missing", "字" * 85),
    *("a" * 1024, "字" * 86, "字" * 20_000, "a" * 60_000, "1" * 60_000, "1 " * 30_000),
    *("x" * 65_000, "13912345678"),
    *("null", "None", "undefined", "true", "NaN", "0", "-1", "1e3", "1693270226642", STATUS),
    *("0000-00-00 00:00:00", "2023-02-30 00:00:00", "9999-12-31 23:59:59", "0001-01-01 00:00:00"),
    *("2023-08-29T08:52:10Z", "2023-08-29 24:00:00", "２０２３-08-29 08:52:10", "2023-08-29"),
    *("٣", "²", "１"),
)


def numbers() -> Iterator[Named]:
    """A field holds a number that no parser agrees on."""
    yield from _in_every_field((f"number {at}", raw) for at, raw in enumerate(_NUMBERS))


def types() -> Iterator[Named]:
    """A field holds another type, or nothing."""
    yield from _in_every_field((f"type {at}", raw) for at, raw in enumerate(_TYPES))


def strings() -> Iterator[Named]:
    """A field holds a text that has harmed somebody before, properly escaped."""
    yield from _in_every_field((f"text {at}", json.dumps(text)) for at, text in enumerate(NAUGHTY))


def raw_strings() -> Iterator[Named]:
    """The same, as it is: control characters too, which JSON does not take."""
    texts = ((f"raw text {at}", text) for at, text in enumerate(NAUGHTY) if len(text) < LONGEST / 4)
    yield from _in_every_field((label, f'"{text}"') for label, text in texts)


def logged() -> Iterator[Named]:
    """A text as the call id of two reports that differ, each with something that is told of it."""
    for at, text in enumerate(NAUGHTY):
        for mark in (f"first told {at}", f"then told {at}"):
            told = {"callidentifier": text, "callDuration": "soon", "outCallId": mark}
            yield mark, json.dumps(WHOLE | told).encode()


def nesting() -> Iterator[Named]:
    """Lists and objects in each other; deep ones also in two reports of one call."""
    for mark in ("a deep one", "another deep one"):
        deep = "[" * 300 + "]" * 300
        yield mark, notification(mark, "callidentifier", '"deep"')[:-1] + f',"x":{deep}}}'.encode()
    for depth in (100, 254, 255, 1000, 1024, 10_000, 30_000, 100_000):
        for label, begin, end in (("lists", "[", "]"), ("objects", '{"a":', "}")):
            name = f"{depth} {label}"
            deep = begin * depth + "0" + end * depth
            yield name, deep.encode()
            yield f"{name} unclosed", (begin * depth).encode()
            if depth <= 1000:  # the deeper ones would say no more
                yield from _in_every_field([(name, deep)])
            yield f"{name} inside", notification(f"{name} inside", "extra", deep)


def keys() -> Iterator[Named]:
    """Fields that stand twice, or almost have a field's name."""
    for field, value in WHOLE.items():
        for at, other in enumerate(("null", "1", "[]", '"x"', json.dumps(value))):
            mark = f"{field} twice {at}"
            one = members(mark)
            more = f'"{field}":{other}'.encode()
            yield mark, b"{" + b",".join([*one, more]) + b"}"
            mark = f"{field} twice before {at}"
            yield mark, b"{" + b",".join([more, *members(mark)]) + b"}"
        escaped, half = f"\\u{ord(field[0]):04x}{field[1:]}", f"{field}\\ud800"
        for near in (escaped, half, field.upper(), f" {field}", f"{field}\\u0000"):
            mark = f"{near} for {field}".replace("\\", "")
            yield mark, b"{" + b",".join([*members(mark), f'"{near}":"x"'.encode()]) + b"}"
    posing = ("", "__proto__", "__class__", "raw", "problems", "call_id")
    for at, key in enumerate((*posing, *NAUGHTY)):
        mark = f"key {at}"
        member = b"%b:1" % json.dumps(key).encode()
        yield mark, b"{" + b",".join([*members(mark), member]) + b"}"
    for count in (1000, 5000):
        mark = f"{count} keys"
        many = [b'"%d":0' % number for number in range(count)]
        yield mark, b"{" + b",".join([*members(mark), *many]) + b"}"


def sizes() -> Iterator[Named]:
    """About as long as a body may be, or much longer."""
    for length in (LONGEST - 1, LONGEST, LONGEST + 1):
        name = f"{length} bytes"
        yield f"{name} of spaces behind", notification(f"{name} behind").ljust(length)
        yield f"{name} of spaces before", notification(f"{name} before").rjust(length)
        yield f"{name} of spaces", b" " * length
        yield f"{name} of rubbish", random.Random(length).randbytes(length)  # noqa: S311 - as above
        for field in FIELDS:
            mark = f"{name} in {field}"
            around = len(notification(mark, field, '""'))
            yield mark, notification(mark, field, '"' + "x" * (length - around) + '"')
    yield "10 MB", notification("10 MB", "reason", '"' + "x" * 10_000_000 + '"')


def mutations() -> Iterator[Named]:
    """One to five bytes of a good body are lost, changed, put in, or taken from elsewhere."""
    chance = random.Random(2)  # noqa: S311 - as above
    for number in range(300):
        mark = f"mutation {number:03}"
        body = bytearray(notification(mark, "extra", '{"a":[1,-2.5e3,null,"\\u6302断\\n"]}'))
        for _ in range(chance.randint(1, 5)):
            at, end = sorted(chance.sample(range(len(body)), 2))
            piece = body[at : min(end, at + chance.randint(1, 8))]
            body[at : at + chance.randint(0, 2)] = chance.choice(
                [b"", chance.randbytes(1), chance.choice(list(NAUGHTY[:20])).encode(), piece]
            )
        yield mark, bytes(body)


GROUPS: Mapping[str, Callable[[], Iterator[Named]]] = {
    made.__name__: made
    for made in (
        *(cut_short, out_of_place, no_values, no_objects, encodings, no_text, numbers, types),
        *(strings, raw_strings, logged, nesting, keys, sizes, mutations),
    )
}
