"""The Chinese README says what the English one does, and no link of either leads nowhere."""

from __future__ import annotations

import io
import re
import token
import tokenize
import tomllib
from itertools import zip_longest
from typing import TYPE_CHECKING

import pytest
from readme_support import (
    CHINESE,
    README,
    ROOT,
    Block,
    Section,
    anchor_of,
    blocks_of,
    links_of,
    sections_of,
    spans_of,
    tables_of,
)

if TYPE_CHECKING:
    from pathlib import Path

ENGLISH_SECTIONS = sections_of(README)
CHINESE_SECTIONS = sections_of(CHINESE)
PAIRS = list(zip_longest(ENGLISH_SECTIONS, CHINESE_SECTIONS, fillvalue=Section(0, "none", "", "")))
PICTURES = 150_000  # bytes that one may have

each_section = pytest.mark.parametrize(
    ("english", "chinese"), PAIRS, ids=[english.heading for english, _ in PAIRS]
)


def without_comments(block: Block) -> tuple[str, list[str]]:
    """What a block does: a translation may differ in its comments only."""
    if block.language == "python":
        tokens = tokenize.generate_tokens(io.StringIO(block.code).readline)
        left_out = {token.COMMENT, token.NL}
        return block.language, [one.string for one in tokens if one.type not in left_out]
    lines = [re.sub(r"\s+# .*$", "", line) for line in block.code.splitlines()]
    return block.language, lines


def numbers_in(text: str) -> list[str]:
    """The numbers that are written in digits, sorted."""
    return sorted(re.findall(r"[0-9]+(?:[.,][0-9]+)*", text))


def place_of(anchor: str, sections: list[Section]) -> int:
    """Which section a link within a README leads to."""
    return [f"#{anchor_of(section.heading)}" for section in sections].index(anchor)


def targets_of(section: Section, sections: list[Section]) -> list[str | int]:
    """Where the links of a section lead to, the same for every language."""
    return [
        place_of(link, sections) if link.startswith("#") else link
        for link in links_of(section.text)
        if link not in {README.name, CHINESE.name}
    ]


def test_every_section_is_translated() -> None:
    """Both have as many sections, in the same order of levels."""
    assert [one.level for one in CHINESE_SECTIONS] == [one.level for one in ENGLISH_SECTIONS]


@each_section
def test_the_code_is_the_same(english: Section, chinese: Section) -> None:
    """Programs and commands differ in their comments only, so those of one README run as well."""
    ours, theirs = (
        [without_comments(block) for block in blocks_of(section.text)]
        for section in (english, chinese)
    )
    assert theirs == ours


@each_section
def test_the_tables_are_the_same(english: Section, chinese: Section) -> None:
    """Row by row and cell by cell, a table has the same names, numbers and empty cells."""
    ours, theirs = (
        [
            [
                [(sorted(spans_of(cell)), numbers_in(cell), not cell) for cell in row]
                for row in table
            ]
            for table in tables_of(section.prose)
        ]
        for section in (english, chinese)
    )
    assert theirs == ours


@each_section
def test_the_text_names_the_same(english: Section, chinese: Section) -> None:
    """What is code in the text of a section is so in its translation, and numbers are the same."""
    ours, theirs = (
        {*spans_of(section.prose), *numbers_in(section.prose)} for section in (english, chinese)
    )
    assert theirs == ours


@each_section
def test_a_chinese_paragraph_is_one_line(english: Section, chinese: Section) -> None:
    """A line break would be shown as a space, which Chinese has not between words."""
    begins = re.compile(r"\s*$|\s*- |\||\*\*")
    before = ""
    for line in chinese.prose.splitlines():
        assert begins.match(line) or not before.strip(), f"{english.heading}: {line}"
        before = line


@each_section
def test_the_links_lead_to_the_same(english: Section, chinese: Section) -> None:
    """Links, pictures included, are in the same order; each finds its section.

    A picture may have words in it, and a Chinese one beside it.
    """
    ours = targets_of(english, ENGLISH_SECTIONS)
    theirs = targets_of(
        chinese._replace(text=chinese.text.replace(".zh-CN.png", ".png")), CHINESE_SECTIONS
    )
    assert theirs == ours


@pytest.mark.parametrize("readme", [README, CHINESE], ids=lambda readme: readme.name)
def test_no_heading_is_there_twice(readme: Path) -> None:
    """An anchor leads to one section."""
    anchors = [anchor_of(section.heading) for section in sections_of(readme)]
    assert len(set(anchors)) == len(anchors)


@pytest.mark.parametrize("readme", [README, CHINESE], ids=lambda readme: readme.name)
def test_the_files_that_are_linked_are_there(readme: Path) -> None:
    """Every relative link leads to a file that is handed out too; a picture is a small PNG."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    given = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    links = links_of(readme.read_text(encoding="utf-8"))
    files = [ROOT / link for link in links if not link.startswith(("#", "https://"))]
    assert ROOT / ({README.name, CHINESE.name} - {readme.name}).pop() in files
    for file in files:
        assert file.is_file()
        assert f"/{file.relative_to(ROOT).parts[0]}" in given
    pictures = [file for file in files if file.suffix == ".png"]
    assert pictures
    for picture in pictures:
        data = picture.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < PICTURES
