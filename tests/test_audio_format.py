"""What a file is, by its first bytes: each kind of sound, and what is none."""

from __future__ import annotations

import gzip
import io
import wave

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmc_async.audio_format import HEAD, SUFFIXES, claimed_length, is_refused, recognise

SOUND = bytes(range(256)) * 2

# By each format's own document, and not by what the code looks for.
FORMATS: list[tuple[str, str, bytes]] = [
    ("wav", "RIFF", b"RIFF\x24\x08\0\0WAVEfmt "),
    ("wav", "RIFF with an LF in its length", b"RIFF\n\n\n\nWAVEfmt "),
    ("wav", "RIFX, big-endian", b"RIFX\0\0\x08\x24WAVEfmt "),
    ("wav", "RF64 (EBU Tech 3306)", b"RF64\xff\xff\xff\xffWAVEds64"),
    ("mp3", "MPEG-1 layer III", b"\xff\xfb\x90\x64"),
    ("mp3", "MPEG-1 layer III with CRC", b"\xff\xfa\x90\x64"),
    ("mp3", "MPEG-1 layer II", b"\xff\xfd\x90\x64"),
    ("mp3", "MPEG-2 layer III", b"\xff\xf3\x48\xc4"),
    ("mp3", "MPEG-2.5 layer III, as of 8 kHz", b"\xff\xe3\x18\xc4"),
    ("mp3", "ID3v2.2", b"ID3\x02\0\0\0\0\0\x0a"),
    ("mp3", "ID3v2.3", b"ID3\x03\0\0\0\0\0\x0a"),
    ("mp3", "ID3v2.4", b"ID3\x04\0\0\0\0\0\x0a"),
    ("aac", "ADTS, MPEG-4", b"\xff\xf1\x50\x80"),
    ("aac", "ADTS, MPEG-4 with CRC", b"\xff\xf0\x50\x80"),
    ("aac", "ADTS, MPEG-2", b"\xff\xf9\x50\x80"),
    ("aac", "ADIF", b"ADIF\x00\x10"),
    ("amr", "AMR-NB (RFC 4867, 5.1)", b"#!AMR\n\x3c"),
    ("amr", "AMR-WB (RFC 4867, 5.1)", b"#!AMR-WB\n\x44"),
    ("amr", "AMR-NB of several channels (RFC 4867, 5.2)", b"#!AMR_MC1.0\n\0\0\0\1"),
    ("amr", "AMR-WB of several channels (RFC 4867, 5.2)", b"#!AMR-WB_MC1.0\n\0\0\0\1"),
    ("ogg", "Ogg (RFC 3533, 6)", b"OggS\0\x02"),
    ("m4a", "ISO base media", b"\0\0\0\x20ftypM4A "),
    ("m4a", "a length with an LF in it", b"\0\0\0\nftypM4A "),
    ("flac", "FLAC (RFC 9639, 8.1)", b"fLaC\0\0\0\x22"),
    ("flac", "FLAC, its only metadata block", b"fLaC\x80\0\0\x22"),
    ("au", "Sun audio", b".snd\0\0\0\x18"),
    ("webm", "EBML (RFC 8794, 8.1)", b"\x1a\x45\xdf\xa3\x9f"),
]

PAGE = "<!DOCTYPE html>\n<html><body>录音不存在 – été</body></html>\r\n"
TEXTS: dict[str, bytes] = {
    "HTML": PAGE.encode(),
    "HTML in GB 18030": PAGE.encode("gb18030"),
    "HTML with a byte order mark": PAGE.encode("utf-8-sig"),
    "HTML in UTF-16": PAGE.encode("utf-16"),
    "HTML in UTF-16, big-endian": b"\xfe\xff" + PAGE.encode("utf-16-be"),
    "HTML after blank lines": b"\r\n\t " + PAGE.encode(),
    "JSON": '{"code": 404, "msg": "没有"}'.encode(),
    "XML": b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
    "a form feed": b"page one\x0cpage two",
    "plain": b"not found",
    "nothing": b"",
    "the word RIFF": b"RIFF is what it should have been",
    "HTML in UTF-16 without a mark": PAGE.encode("utf-16-le"),
    "HTML in UTF-16, big-endian, without a mark": PAGE.encode("utf-16-be"),
    "HTML without a DOCTYPE, in UTF-16 without a mark": "<html><p>没有".encode("utf-16-le"),
    "ISO-2022-JP": "録音はありません".encode("iso2022-jp"),
    "the word ID3": b"ID3 is what it should have been",
    "the word OggS": b"OggS is what it should have been",
    "the word fLaC": b"fLaC is what it should have been",
    "the word AMR": b"#!AMR is what it should have been",
}
OTHER: dict[str, bytes] = {
    "PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "GIF": b"GIF89a\x01\0\x01\0",
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n\0",
    "gzip": gzip.compress(PAGE.encode()),
    "ZIP": b"PK\x03\x04\x14\0",
}
BINARY: dict[str, bytes] = {
    "a film": b"RIFF\x24\x08\0\0AVI LIST",
    "silence": bytes(100),
    "silence in G.711": b"\x7f" * 100,
    "an MPEG frame of layer I": b"\xff\xff\x10\x00",
}


@pytest.mark.parametrize(
    ("name", "head"), [(row[0], row[2]) for row in FORMATS], ids=[row[1] for row in FORMATS]
)
@pytest.mark.parametrize("content_type", ["audio/wav", "application/octet-stream"])
def test_sound(name: str, head: bytes, content_type: str) -> None:
    """Each format is known by its first bytes, whatever the host calls it."""
    assert recognise(head + SOUND, content_type) == name
    assert f".{name}" in SUFFIXES


def test_all_formats() -> None:
    """No suffix is without a format that is tested here."""
    assert {f".{row[0]}" for row in FORMATS} == set(SUFFIXES)


def test_a_real_file() -> None:
    """What the standard library writes is a WAV file, and says how long it is."""
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(SOUND * 20)
    data = written.getvalue()
    assert recognise(data[:HEAD], "") == "wav"
    assert claimed_length(data[:HEAD]) == len(data)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("content_type", ["audio/wav", "audio/mpeg", "application/octet-stream"])
def test_text(text: str, content_type: str) -> None:
    """A text is no sound, in whichever encoding, and whatever the host calls it."""
    assert recognise(TEXTS[text], content_type) == ""


@pytest.mark.parametrize("other", OTHER)
@pytest.mark.parametrize("content_type", ["audio/wav", "application/octet-stream"])
def test_no_sound(other: str, content_type: str) -> None:
    """Pictures, documents and archives are no sound, whatever the host calls them."""
    assert recognise(OTHER[other], content_type) == ""


@pytest.mark.parametrize("binary", BINARY)
def test_unknown(binary: str) -> None:
    """What nobody here knows is a sound where the host says so, and only there."""
    assert recognise(BINARY[binary], "audio/basic") == "unknown"
    for content_type in ("application/octet-stream", "video/mp4", "", "x-audio/wav"):
        assert recognise(BINARY[binary], content_type) == ""


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=HEAD))
def test_any_text(text: str) -> None:
    """No text of printable characters passes for a sound, but for the few that begin as one."""
    head = text.encode()
    if not any(head.startswith(magic) or head[4:8] == b"ftyp" for magic in (b"ADIF",)):
        assert recognise(head, "audio/wav") == ""


@pytest.mark.parametrize(
    "content_type",
    [
        "text/html",
        "text/plain",
        "image/png",
        "application/json",
        "application/pdf",
        "application/xml",
        "application/xhtml+xml",
    ],
)
def test_refused(content_type: str) -> None:
    """What calls itself a text or a picture is believed."""
    assert is_refused(content_type)


@pytest.mark.parametrize(
    "content_type",
    ["audio/wav", "audio/x-wav", "audio/mpeg", "video/mp4", "application/octet-stream",
     "application/ogg", "binary/octet-stream", "", "x-text/html"],
)  # fmt: skip
def test_not_refused(content_type: str) -> None:
    """What may be a sound is looked at."""
    assert not is_refused(content_type)


@pytest.mark.parametrize(
    ("riff", "length"),
    [
        (36, 44),  # no sound at all
        (35, None),
        (0, None),
        (100_000, 100_008),
        (0x7FFF0000 - 9, 0x7FFF0000 - 1),
        (0x7FFF0000 - 8, None),
        (0x7FFFFFFF, None),
        (0xFFFFFFFF, None),
    ],
)
def test_claimed_length(riff: int, length: int | None) -> None:
    """A WAV file's head counts what follows its first 8 bytes; 0 and the most stand for unknown."""
    assert claimed_length(b"RIFF" + riff.to_bytes(4, "little") + b"WAVEfmt ") == length


@pytest.mark.parametrize("head", [b"RF64", b"RIFX", b"ID3\x04", b"", b"RIF"])
def test_no_claimed_length(head: bytes) -> None:
    """No other file says at its beginning how long it is; RF64 keeps it elsewhere."""
    assert claimed_length(head + (100_000).to_bytes(4, "little") + b"WAVE") is None


@pytest.mark.parametrize("length", range(8))
def test_claimed_length_of_a_stump(length: int) -> None:
    """A stump of a head claims nothing that could be compared with a length."""
    assert claimed_length(b"RIFF\x24\x08\0\0"[:length]) in {None, 0x24 + 8, 0x0824 + 8}
