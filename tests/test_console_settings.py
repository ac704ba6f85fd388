"""Rules, faults and the callback's address by the console's JSON API."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from console_support import ask, do
from test_sandbox_support import CALLER, meeting

from qmc_async.models import Reason
from qmc_async.sandbox import FAULT_NAMES, Faults, Rule, Scenario

BOTH_KINDS = pytest.mark.parametrize("kind", ["json", "form"])


@BOTH_KINDS
@pytest.mark.parametrize("ends", [None, "endless", *Reason])
async def test_a_rule_is_added(kind: str, ends: str | None) -> None:
    """With every member; it decides the next call that it matches."""
    members: dict[str, Any] = {"callee": "*0009", "caller": CALLER, "out_call_id": "order-42"}
    if ends is not None:
        members["ends"] = str(ends)
    async with meeting(console=True) as peer:
        status, shown = await do(
            peer, kind, "POST", "/rules", faults=["lose_reply"], probability=1, **members
        )
        (rule,) = peer.platform.rules
        expected = None if ends is None else Scenario.endless()
        if ends not in (None, "endless"):
            expected = Scenario.for_reason(Reason(str(ends)))
        assert rule == Rule(
            callee="*0009",
            caller=CALLER,
            out_call_id="order-42",
            scenario=expected,
            faults=Faults(lose_reply=True),
        )
        assert (status, await ask(peer, "GET", "/rules")) == (200, (200, [shown]))
        assert (shown["name"], shown["faults"]) == (rule.name, ["lose_reply"])
        call = peer.platform.place(CALLER, "13900000009", out_call_id="order-42")
        assert call.behaviour.summary == "as a rule says"


@BOTH_KINDS
async def test_an_empty_rule_matches_anything(kind: str) -> None:
    """A form's empty fields say nothing."""
    empty = {"callee": "", "caller": " ", "out_call_id": "", "ends": ""}
    async with meeting(console=True) as peer:
        assert (await do(peer, kind, "POST", "/rules", **empty))[0] == 200
        assert peer.platform.rules == [Rule()]


@BOTH_KINDS
async def test_rules_are_changed_by_name(kind: str) -> None:
    """Each by its own, wherever it stands; a member that is not given stays."""
    async with meeting(console=True) as peer:
        names = ["first", "a/b?c#d %", "third"]
        peer.platform.rules.extend(Rule(name=name) for name in names)
        paths = ["/rules/first", "/rules/a%2Fb%3Fc%23d%20%25", "/rules/third"]
        await asyncio.gather(
            do(peer, kind, "PATCH", paths[0], enabled="false"),
            do(peer, kind, "PATCH", paths[2], probability=0.25),
            ask(peer, "DELETE", paths[1]),
        )
        rules = peer.platform.rules
        assert [(one.name, one.enabled, one.probability) for one in rules] == [
            ("first", False, 1.0),
            ("third", True, 0.25),
        ]
        assert (await ask(peer, "DELETE", paths[1]))[0] == 404
        assert (await do(peer, kind, "PATCH", paths[1], enabled="true"))[0] == 404
        assert (await ask(peer, "PATCH", paths[0], {"enabled": True}))[1]["enabled"] is True


@BOTH_KINDS
async def test_fault_rates_are_set(kind: str) -> None:
    """Each by its name; without a probability it is certain."""
    async with meeting(console=True) as peer:
        for fault in FAULT_NAMES:
            status, _ = await do(peer, kind, "PUT", f"/faults/{fault}", probability=0.5)
            assert (status, peer.platform.fault_rates.rates[fault]) == (200, 0.5)
        await ask(peer, "PUT", "/faults/lose_reply")
        expected = {**dict.fromkeys(FAULT_NAMES, 0.5), "lose_reply": 1.0}
        assert await ask(peer, "GET", "/faults") == (200, expected)
        status, shown = await do(peer, kind, "PUT", "/faults/lose_replies", probability=1)
    assert status == 404
    assert "lose_reply" in shown["error"]


async def test_the_next_notification_is_dropped() -> None:
    """Once for each time that it is asked for."""
    async with meeting(console=True) as peer:
        assert await ask(peer, "POST", "/faults/drop-next") == (200, {"to_drop": 1})
        assert await ask(peer, "POST", "/faults/drop-next") == (200, {"to_drop": 2})
        assert peer.platform.notifications_to_drop == 2


@BOTH_KINDS
async def test_the_callback_is_set(kind: str) -> None:
    """To an address, or to none; the answer does not repeat what is secret in it."""
    url = "https://user:password@example.org/callback/0123456789abcdef/?key=secret"
    async with meeting(console=True) as peer:
        status, shown = await do(peer, kind, "PUT", "/callback", url=url)
        assert (status, peer.platform.callback_url) == (200, url)
        assert shown == {"callback": "https://example.org/callback/01234567…"}
        assert await do(peer, kind, "PUT", "/callback", url="") == (200, {"callback": None})
        assert peer.platform.callback_url is None
