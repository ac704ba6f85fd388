"""Hostile requests around a good notification: headers, encodings and framing, each with a name."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

from attrs import frozen
from malformed_bodies import LONGEST, notification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


_LENGTH = "Content-Length: {}"  # the true one


@frozen(kw_only=True)
class Request:
    """One request.

    Attributes:
        name: no two have the same.
        head: the headers' lines, ``Host`` aside.
        sent: what follows the head.
        content: the notification that is meant; it may be kept as far as it came.
        others: what may be kept instead, as far as it came.
        is_whole: whether a server that takes it must have all of the content.
        is_cut: whether the server may wait for more, in vain.
    """

    name: str
    head: tuple[str, ...]
    sent: bytes
    content: bytes
    others: tuple[bytes, ...] = ()
    is_whole: bool = False
    is_cut: bool = False


def _plain(name: str, *head: str, is_whole: bool = False, is_cut: bool = True) -> Request:
    content = notification(name)
    return Request(
        name=name,
        head=tuple(line.replace("{}", str(len(content))) for line in head),
        sent=content,
        content=content,
        is_whole=is_whole,
        is_cut=is_cut,
    )


_TYPES = (
    *("", " ", ";", "/", "text", "text/plain", "text/html;charset=utf-7", "application/xml", "*/*"),
    *(
        "application/json; charset=gbk",
        "application/json;charset=",
        "application/json;charset=\xe9",
    ),
    *("application/json; charset=utf-16", "application/json; charset=no-such", 'a/b; x="'),
    *("application/x-www-form-urlencoded", "multipart/form-data", "multipart/mixed; boundary=x"),
    *("application/json, text/plain", "A" * 4000, "application/json" + ";a=b" * 500),
)
_ODD = (
    *(
        "Content-Type: a/b\r\nContent-Type: c/d",
        "Accept: nothing/at-all",
        "Accept-Charset: x",
        "X:",
    ),
    *("Authorization: nonsense", "Cookie: " + "a=b; " * 500, "Content-MD5: x", "Content-Range: x"),
    *("Expect: the unexpected", "Upgrade: h2c", "X-HTTP-Method-Override: DELETE", "TE: trailers"),
    *("Range: bytes=0-1", "If-Match: *", "Connection: x, y", "Content-Language: \xe9", "Date: x"),
    *("X-Forwarded-For: \x1b[31m", "User-Agent: ${jndi:ldap://x/y}", "Via: x", "Content-Encoding:"),
)


def headers() -> Iterator[Request]:
    """They say nothing that is true of the body, which the document does not promise either."""
    for at, kind in enumerate(_TYPES):
        yield _plain(f"type {at}", f"Content-Type: {kind}", _LENGTH, is_whole=True, is_cut=False)
    for at, line in enumerate(_ODD):
        yield _plain(f"header {at}", line, _LENGTH, is_cut=False)


def packed() -> Iterator[Request]:
    """The body is compressed, or is said to be."""
    whole: Mapping[str, tuple[str, Callable[[bytes], bytes]]] = {
        "gzip": ("gzip", gzip.compress),
        "deflate": ("deflate", zlib.compress),
        "in two members": (
            "gzip",
            lambda body: gzip.compress(body[:40]) + gzip.compress(body[40:]),
        ),
        "stored": ("gzip", lambda body: gzip.compress(body, 0)),
    }
    plain = {
        "not at all": ("gzip", bytes),
        "not deflated at all": ("deflate", bytes),
        "in a way nobody knows": ("x-nothing", bytes),
        "as br": ("br", bytes),
        "as zstd": ("zstd", bytes),
    }
    broken: Mapping[str, tuple[str, Callable[[bytes], bytes]]] = {
        "cut": ("gzip", lambda body: gzip.compress(body)[:-12]),
        "cut in the head": ("gzip", lambda body: gzip.compress(body)[:5]),
        "without a checksum": ("gzip", lambda body: gzip.compress(body)[:-8]),
        "with a wrong checksum": ("gzip", lambda body: gzip.compress(body)[:-8] + b"\0" * 8),
        "with more behind": ("gzip", lambda body: gzip.compress(body) + b"more"),
        "raw": ("deflate", lambda body: zlib.compress(body)[2:-4]),
        "twice": ("gzip", lambda body: gzip.compress(gzip.compress(body))),
        "twice, and told": ("gzip, gzip", lambda body: gzip.compress(gzip.compress(body))),
        "empty": ("gzip", lambda _: b""),
        "changed": ("gzip", lambda body: bytes(255 - byte for byte in gzip.compress(body))),
        "a bomb": ("gzip", lambda body: gzip.compress(body.ljust(5_000_000))),
        "a bomb of bombs": ("deflate", lambda _: zlib.compress(zlib.compress(b"0" * 20_000_000))),
    }
    for kinds in (whole, plain, broken):
        for name, (encoding, pack) in kinds.items():
            content = notification(name)
            sent = pack(content)
            yield Request(
                name=name,
                head=(f"Content-Encoding: {encoding}", f"Content-Length: {len(sent)}"),
                sent=sent,
                content=content,
                others=(sent, _unpacked(sent)),
                is_whole=kinds is not broken,
            )


def _unpacked(sent: bytes) -> bytes:
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(sent, LONGEST)
    except zlib.error:
        return b""


def _chunked(name: str, frame: str, *head: str, is_whole: bool = False) -> Request:
    """In a frame, `<` and `>` stand for the content's two halves, `#` for the length of one."""
    content = notification(name).ljust(400)
    sent = frame.replace("#", f"{200:x}").replace("<", content[:200].decode())
    return Request(
        name=name,
        head=(*head, "Transfer-Encoding: chunked"),
        sent=sent.replace(">", content[200:].decode()).encode(),
        content=content,
        is_whole=is_whole,
        is_cut=not is_whole,
    )


_END = "\r\n0\r\n\r\n"
_WHOLE_FRAMES = {
    "two chunks": f"#\r\n<\r\n#\r\n>{_END}",
    "upper case": f"C8\r\n<\r\nC8\r\n>{_END}",
    "leading zeros": f"000000#\r\n<\r\n#\r\n>{_END}",
}
_FRAMES = (
    *(
        "",
        "\r\n",
        "0",
        "0\r\n",
        "0\r\n\r\n",
        "#",
        "#\r\n",
        "#\r\n<",
        "#\r\n<\r\n",
        "#\r\n<\r\n0\r\n",
    ),
    *(
        "<>",
        "zz\r\n<\r\n",
        "-#\r\n<",
        "+#\r\n<",
        "0x#\r\n<",
        " #\r\n<",
        "# \r\n<",
        "#,#\r\n<",
        "٣\r\n",
    ),
    *("#\n<\n#\n>\n0\n\n", "#\r<\r#\r>\r0\r\r", "#\r\n<#\r\n>", "#\r\n<>", "1\r\n<", "fff\r\n<>"),
    *("FFFFFFFF\r\n<", "FFFFFFFFFFFFFFFFF\r\n<", "8000000000000000\r\n<", "1e3\r\n<", "1.0\r\n<"),
    *(f"#;x=y\r\n<\r\n#;\r\n>{_END}", f"#;{'x' * 20_000}\r\n<\r\n#\r\n>{_END}", '#;x="\r\n<'),
    *(
        "#\r\n<\r\n0\r\nX: y\r\n\r\n",
        "#\r\n<\r\n0\r\nContent-Length: 1\r\n\r\n",
        "#\0\r\n<",
        "#\r\n<\0",
    ),
    *(
        f"0\r\n\r\n#\r\n<{_END}",
        f"#\r\n<\r\n0\r\n{'X: y' * 9000}\r\n\r\n",
        "#\r\n<\r\n0\r\nX\0: y\r\n\r\n",
    ),
    *("0" * 70_000, f"#\r\n<{_END}{_END}", f"#\r\n<{_END}POST / HTTP/1.1\r\n\r\n"),
)
_LENGTHS = (
    *(
        "-1",
        "+5",
        "5,5",
        "5, 6",
        "1e2",
        "0x10",
        "９",
        "x",
        " ",
        "5 5",
        "5;5",
        "1_0",
        "1.0",
        "٣",
        "0",
    ),
    *("1", "100", "9" * 30, str(2**31), str(2**63), str(2**64 + 5), "000", "\t5", "5\x0b", '"5"'),
)


def framing() -> Iterator[Request]:
    """Where the body ends is told wrongly, twice, or not."""
    for name, frame in _WHOLE_FRAMES.items():
        yield _chunked(name, frame, is_whole=True)
    for name, length, size in (("many chunks", 400, 1), ("too many", LONGEST + 1, LONGEST)):
        content = notification(name).ljust(length)
        pieces = [content[at : at + size] for at in range(0, length, size)]
        sent = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
        yield Request(
            name=name,
            head=("Transfer-Encoding: chunked",),
            sent=sent,
            content=content,
            is_whole=length <= LONGEST,
        )
    for at, frame in enumerate(_FRAMES):
        yield _chunked(f"frame {at}", frame)
    for at, told in enumerate(_LENGTHS):
        yield _plain(f"length {at}", f"Content-Length: {told}")
    yield _plain("no length")
    yield _plain("a longer body than came", "Content-Length: 1000")
    yield _plain("two lengths", "Content-Length: 5", _LENGTH)
    yield _plain("the same length twice", _LENGTH, _LENGTH)
    for at, coding in enumerate(
        (
            *("identity", "chunked, chunked", "gzip, chunked", "xchunked", "chunked;q=0", "", " "),
            *(
                "\x0bchunked",
                "chunked\x00",
                "cHuNkEd",
                "chunked, identity",
                "'chunked'",
                "x" * 4000,
            ),
        )
    ):
        yield _plain(f"coding {at}", f"Transfer-Encoding: {coding}", _LENGTH)
        yield _plain(f"coding {at} without a length", f"Transfer-Encoding: {coding}")
    for at, line in enumerate(
        (
            *("Content-Length : 5", "Content-Length\t: 5", " Content-Length: 5", "Content-Length"),
            *(
                "Content\0-Length: 5",
                "X: a\0b",
                "X: a\rb",
                "X: a\nContent-Length: 5",
                ": x",
                "\x7f: y",
            ),
            *("Host: another", "X: y\r\n folded", "X: " + "y" * 100_000, "Transfer-Encoding : x"),
            *("\r\n".join(f"X{n}: y" for n in range(2000)), "X" * 20_000 + ": y", "é: y", "(x): y"),
        )
    ):
        yield _plain(f"line {at}", line, _LENGTH)


REQUESTS: Mapping[str, Callable[[], Iterator[Request]]] = {
    made.__name__: made for made in (headers, packed, framing)
}
