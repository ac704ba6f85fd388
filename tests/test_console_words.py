"""What the console says: in Chinese wherever in English, and in the language that is wanted."""

from __future__ import annotations

import ast
import re
from importlib.resources import files

import pytest
from console_support import page
from test_console_pages import every_kind
from test_sandbox_support import meeting

from qmc_async.sandbox import FAULT_NAMES, Action, State
from qmc_async.sandbox.console import timeline, words
from qmc_async.sandbox.console.words import CHINESE, language_of, translator

_TEMPLATES = files("qmc_async.sandbox.console").joinpath("templates")


def said_in_templates() -> set[str]:
    """Each text in a ``t("...")``."""
    texts: set[str] = set()
    for entry in _TEMPLATES.iterdir():
        texts.update(re.findall(r'\bt\("([^"]+)"\)', entry.read_text("utf-8")))
    assert len(texts) > 50
    return texts


def constants_of(source: str) -> set[str]:
    """Each text that stands in a program."""
    return {
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_all_that_is_said_has_a_chinese_word() -> None:
    """The templates' texts, states, actions and faults."""
    said = {*said_in_templates(), *State, *Action, *FAULT_NAMES}
    assert sorted(said - set(CHINESE)) == []


def test_no_word_is_left_over() -> None:
    """What nobody says any more goes from the list."""
    path = timeline.__file__
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - a module's own file
        told = constants_of(file.read())
    said = {*said_in_templates(), *State, *Action, *FAULT_NAMES, *told}
    assert sorted(set(CHINESE) - said) == []


async def test_every_line_of_a_timeline_has_a_chinese_word() -> None:
    """Of calls that end in every way, with every fault."""
    async with meeting(console=True) as peer:
        await every_kind(peer)
        for call in list(peer.platform.calls.values()):
            if call.state is State.ENDED:
                await peer.platform.resend(call)
            await peer.record(call.call_id)
            now, delay = peer.platform.clock.now(), peer.platform.assumed.recording_delay
            lines = timeline.timeline_of(call, now, delay)
            assert [line.text for line in lines if line.text not in CHINESE] == []
            assert [line.at for line in lines] == sorted(line.at for line in lines)


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("*", "en"),
        ("en", "en"),
        ("zh", "zh-CN"),
        ("ZH-cn", "zh-CN"),
        ("zh-TW", "zh-CN"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"),
        ("en-GB,en;q=0.9,zh;q=0.8", "en"),
        ("en;q=0.1,zh;q=0.9", "zh-CN"),
        ("en; q=0.1, zh; q=0.9", "zh-CN"),
        ("en;q=0.1 , zh ;q = 0.9", "zh-CN"),
        ("fr,de;q=0.9", "en"),
        ("fr,zh;q=0.2", "zh-CN"),
        ("zh;q=0", "en"),
        ("zh;q=nan", "en"),
        ("zh;q=x,en", "en"),
        ("zh;q=,en;q=0.5", "zh-CN"),
        (",;,", "en"),
        ("zh" * 5000, "zh-CN"),
    ],
)
def test_the_language_that_is_wanted(accepted: str, language: str) -> None:
    """The one that the browser likes best of the two; English where it says nothing."""
    assert language_of(accepted) == language


async def test_a_page_is_in_that_language() -> None:
    """The whole page, and not the values in it."""
    async with meeting(console=True) as peer:
        assert "Place a call" in await page(peer, "/", "en")
        text = await page(peer, "/", "zh-CN,en;q=0.5")
        assert "发起呼叫" in text
        assert "Place a call" not in text


def test_what_has_no_word_is_said_as_it_is() -> None:
    """In both languages; a fault's name has a better English one."""
    for language in ("en", "zh-CN"):
        assert translator(language)("no callback_url") == "no callback_url"
    assert translator("en")("lose_reply") == "the reply to call is lost"
    assert set(words._PRETTIER) == set(FAULT_NAMES)  # pyright: ignore[reportPrivateUsage] - all of it
