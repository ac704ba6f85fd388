"""A page as a strict reader sees it, for the tests of the console's pages."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Final

_VOID: Final = frozenset({"br", "hr", "img", "input", "link", "meta"})
_CONTROLS: Final = frozenset({"input", "select", "textarea"})


class Document(HTMLParser):
    """Reads a page, or a part of one, and raises at what no careful author writes.

    Attributes:
        tags: the elements, with their attributes, in order.
        text: all that is read, without the markup.
        ids: of the elements.
    """

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.ids: list[str] = []
        self._open: list[str] = []
        self._controls: list[tuple[dict[str, str], bool]] = []
        self._buttons: list[list[str]] = []
        self.feed(markup)
        self.close()
        assert not self._open, self._open
        self._check()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        given = {name: value or "" for name, value in attrs}
        assert not [name for name in names if name.startswith("on") or name == "style"], given
        self.tags.append((tag, given))
        self.ids += [given["id"]] if "id" in given else []
        if tag in _CONTROLS and given.get("type") != "hidden":
            self._controls.append((given, "label" in self._open))
        if tag == "button":
            self._buttons.append([])
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """An element ends: the last that began."""
        assert self._open
        assert self._open.pop() == tag, (tag, self._open)

    def handle_data(self, data: str) -> None:
        """A text, unescaped."""
        self.text += data
        if "script" in self._open or "style" in self._open:
            assert not data.strip()
        if "button" in self._open:
            self._buttons[-1].append(data)

    def handle_comment(self, data: str) -> None:
        """There is none."""
        raise AssertionError(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of each element with that tag."""
        return [given for name, given in self.tags if name == tag]

    def _check(self) -> None:
        assert len(self.ids) == len(set(self.ids)), sorted(self.ids)
        assert not self.all("style")
        assert all(given["src"].startswith("/static/") for given in self.all("script"))
        assert all(given["src"].startswith("/static/") for given in self.all("img"))
        assert all(given["href"].startswith("/static/") for given in self.all("link"))
        assert all(given["src"].startswith("/sandbox/") for given in self.all("audio"))
        assert all(given["href"].startswith("/") for given in self.all("a"))
        labelled = {given.get("for") for given in self.all("label")}
        for given, inside in self._controls:
            assert inside or given.get("id") in labelled or given.get("aria-label"), given
        assert all("".join(texts).strip() for texts in self._buttons)
