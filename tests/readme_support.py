"""The two READMEs, taken apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CHINESE = ROOT / "README.zh-CN.md"

_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#{1,3}) (.*)$", re.MULTILINE)
_CELLS = re.compile(r"(?<!\\)\|")


class Section(NamedTuple):
    """A heading, and what stands under it until the next one.

    Attributes:
        level: 1 for the title.
        heading: its text.
        text: with its blocks of code.
        prose: without them.
    """

    level: int
    heading: str
    text: str
    prose: str


class Block(NamedTuple):
    """A block of code: its language, and its lines."""

    language: str
    code: str


def blocks_of(text: str) -> list[Block]:
    """The blocks of code, in order."""
    return [Block(language, code) for _, language, code in _FENCED.findall(text)]


def sections_of(readme: Path) -> list[Section]:
    """The sections, in order, the part under the title first."""
    text = readme.read_text(encoding="utf-8")
    # A comment in a program is no heading.
    masked = _FENCED.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)
    found = list(_HEADING.finditer(masked))
    ends = [heading.start() for heading in found[1:]] + [len(text)]
    return [
        Section(
            level=len(heading[1]),
            heading=heading[2],
            text=text[heading.end() : end],
            prose=masked[heading.end() : end],
        )
        for heading, end in zip(found, ends, strict=True)
    ]


def section_of(readme: Path, heading: str) -> Section:
    """The one with this heading."""
    (found,) = (section for section in sections_of(readme) if section.heading == heading)
    return found


def tables_of(text: str) -> list[list[list[str]]]:
    """The tables' rows, each a list of cells, without heads."""
    tables: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            tables[-1].append([cell.strip() for cell in _CELLS.split(line)[1:-1]])
        elif tables[-1]:
            tables.append([])
    return [table[2:] for table in tables if table]


def spans_of(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


def links_of(text: str) -> list[str]:
    """Where links and pictures lead to."""
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchor_of(heading: str) -> str:
    """The fragment by which GitHub finds a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
