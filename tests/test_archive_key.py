"""`KeyTemplate`: where a recording is kept, whatever its call's ids are made of."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from qmc_async import ConfigError
from qmc_async.archive.key import DEFAULT_KEY, KeyTemplate
from qmc_async.models import BEIJING, CallState, Disconnected, Overdue

END = datetime(2026, 1, 31, 23, 59, 59, tzinfo=BEIJING)
HOSTILE = (
    "",
    ".",
    "..",
    "...",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "C:\\a",
    ".hidden",
    "%2Ehidden",
    "%2e",
    "-",
    "\0",
    "\ud800",
    "?",
    "a\nb",
    "a b",
    "{end_time}",
    "{}",
    "😀" * 64,
    "0" * 164,
    "0" * 165,
    "0" * 10_000,
    "录音",
    "CON",
    "a.json",
    "a.wav",
)
ids = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(), max_size=300))


def ended(call_id: str = "4711", out_call_id: str | None = None) -> Disconnected:
    """A call's report."""
    return Disconnected(call_id=call_id, end_time=END, out_call_id=out_call_id)


def test_the_default() -> None:
    """A folder for each day in Beijing, and the call's id."""
    assert KeyTemplate(DEFAULT_KEY).of(ended()) == "2026/01/31/4711"


def test_of_a_call_that_nobody_reported() -> None:
    """It has no end: the time when it was placed stands for it."""
    event = Overdue(
        out_call_id="order-1", call_id="4711", placed_at=END, outcome=CallState.INFERRED
    )
    assert KeyTemplate("{end_time:%H}/{out_call_id}/{call_id}").of(event) == "23/order-1/4711"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{call_id}", "4711"),
        ("{call_id}/sound", "4711/sound"),
        ("a/{out_call_id}/{call_id}", "a/-/4711"),
        ("{end_time:%Y-%m-%d %H.%M}_{call_id}", "2026-01-31 23.59_4711"),
        ("{end_time}/{call_id}", "2026-01-31 23:59:59+08:00/4711"),
        ("录音/{{{call_id}}}", "录音/{4711}"),
        ("{call_id}{call_id}", "47114711"),
        ("a..b/{call_id}.x", "a..b/4711.x"),
    ],
)
def test_templates(template: str, expected: str) -> None:
    """Any place of the fields; a call without an id of ours has a dash for it."""
    assert KeyTemplate(template).of(ended()) == expected


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        # Two calls would share a file.
        ("", "must have the whole {call_id}"),
        ("{end_time:%Y}", "must have the whole {call_id}"),
        ("{out_call_id}", "must have the whole {call_id}"),
        ("{{call_id}}/{out_call_id}", "must have the whole {call_id}"),
        ("{call_id:.5}", "a format for {end_time} only"),
        ("{call_id:.60}", "a format for {end_time} only"),
        ("{call_id:5}", "a format for {end_time} only"),
        ("{call_id:0<99}", "a format for {end_time} only"),
        ("{call_id}{out_call_id:3}", "a format for {end_time} only"),
        ("{call_id!r}", "a format for {end_time} only"),
        ("{call_id!s}", "a format for {end_time} only"),
        ("{call_id}{end_time!r}", "a format for {end_time} only"),
        ("{end_time:{call_id}}", "a format for {end_time} only"),
        ("{call_id}{end_time:%Y{out_call_id}}", "a format for {end_time} only"),
        # No fields of ours.
        ("{call_id.__class__}", "has {call_id.__class__}; there are {call_id}, "),
        ("{call_id[0]}", "has {call_id[0]}; "),
        ("{call_id}{event.raw}", "has {event.raw}; "),
        ("{0}", "has {0}; "),
        ("{}", "has {}; "),
        ("{call_id}/{caller}", "has {caller}; "),
        # No template at all.
        ("{call_id", "is no template: "),
        ("call_id}", "is no template: "),
        ("{call_id!}", "is no template: "),
        ("{call_id}{end_time:\ud800}", "is no template: "),
        # Out of the destination, or out of sight.
        ("/{call_id}", "must stay in the destination"),
        ("{call_id}/", "must stay in the destination"),
        ("a//{call_id}", "must stay in the destination"),
        ("../{call_id}", "must stay in the destination"),
        ("a/../{call_id}", "must stay in the destination"),
        ("./{call_id}", "must stay in the destination"),
        ("a/./{call_id}", "must stay in the destination"),
        (".{call_id}", "must stay in the destination"),
        ("{call_id}/..", "must stay in the destination"),
        ("{end_time:..}/{call_id}", "must stay in the destination"),
        ("{end_time:/%Y}/{call_id}", "must stay in the destination"),
        ("a\\{call_id}", "neither backslashes nor control characters"),
        ("..\\{call_id}", "neither backslashes nor control characters"),
        ("a\n{call_id}", "neither backslashes nor control characters"),
        ("\0{call_id}", "neither backslashes nor control characters"),
        ("{end_time:%n}{call_id}", "neither backslashes nor control characters"),
        ("\ud800{call_id}", "neither backslashes nor control characters"),
    ],
)
def test_templates_that_are_none(template: str, problem: str) -> None:
    """Refused when the program starts; the error quotes the template, and names the setting."""
    with pytest.raises(ConfigError) as caught:
        KeyTemplate(template)
    assert str(caught.value).startswith(f"key: {template!r} ")
    assert problem in str(caught.value)
    assert caught.value.setting == "key"


@pytest.mark.parametrize("template", [DEFAULT_KEY, "{out_call_id}/{call_id}", "{call_id}"])
@given(call_id=ids, out_call_id=ids)
def test_no_id_leads_out_of_the_destination(template: str, call_id: str, out_call_id: str) -> None:
    """Whatever stands in it: as many folders as the template has, none hidden, none too long."""
    key = KeyTemplate(template).of(ended(call_id, out_call_id))
    parts = key.split("/")
    assert len(parts) == len(template.replace(DEFAULT_KEY, "a/a/a/a").split("/"))
    assert key.isascii()
    assert key.isprintable()
    assert "\\" not in key
    for part in parts:
        assert part
        assert not part.startswith(".")
        assert len(f"{part}.json") <= 255
    root = Path("/srv/archive")
    assert (root / key).resolve().is_relative_to(root)
    # The sound and its JSON find each other by their names.
    assert str(PurePosixPath(f"{key}.wav").with_suffix(".json")) == f"{key}.json"


@given(first=ids, second=ids)
@example(first="a/b", second="a%2Fb")
@example(first=".a", second="%2Ea")
def test_no_two_calls_share_a_key(first: str, second: str) -> None:
    """Different ids have different keys: no recording is taken for another call's."""
    # Half of a surrogate pair is in no JSON that we take; all of them are written as one.
    assume(not any("\ud800" <= one <= "\udfff" for one in first + second))
    assume((first or "-") != (second or "-"))
    template = KeyTemplate("{call_id}")
    assert template.of(ended(first)) != template.of(ended(second))


def test_no_id_is_the_short_form_of_another() -> None:
    """Who knows how a long id is cut cannot make an id of it that takes its place."""
    template = KeyTemplate("{call_id}")
    cut = template.of(ended("0" * 500))
    assert 164 < len(cut) < 200
    assert template.of(ended(cut)) != cut
    assert template.of(ended("0" * 501)) != cut
