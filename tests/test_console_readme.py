"""What the README says of the console's JSON API."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from aiohttp import web
from readme_support import README, blocks_of, section_of, tables_of

from qmc_async.sandbox import Action, Rule, Sandbox, Scenario, VirtualClock
from qmc_async.sandbox.console.json_api import JsonApi

TEXT = section_of(README, "The console").text


async def test_the_commands_do_what_they_say() -> None:
    """The lines of curl show a call, act in it, and let a fault befall others."""
    rule = Rule(scenario=Scenario(()))
    async with Sandbox(console=True, clock=VirtualClock(), rules=[rule]) as sandbox:
        call = sandbox.place("13987654321", "13912345678")
        sandbox.act(call.call_id, Action.CALLER_ANSWERS)
        [block] = blocks_of(TEXT)
        answers: list[dict[str, Any]] = []
        for line in block.code.replace("http://127.0.0.1:9090", sandbox.base_url).splitlines():
            process = await asyncio.create_subprocess_shell(
                line.removeprefix("$ "), stdout=asyncio.subprocess.PIPE
            )
            answer, _ = await process.communicate()
            answers.append(json.loads(answer))
    assert answers[0]["call_id"] == call.call_id
    assert answers[0]["state"] == "callee ringing"
    assert answers[1]["state"] == "connected"
    assert answers[2]["drop_notification"] == 0.1


def test_the_table_has_every_route() -> None:
    """Each route of the API stands in the table once, and nothing else does."""
    application = web.Application()
    JsonApi(Sandbox(), on_change=lambda: None).add_to(application.router)
    routes = {
        (route.method, re.sub(r"\{(\w+)\}", lambda name: name[1].upper(), route.resource.canonical))
        for route in application.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    [table] = tables_of(TEXT)
    told = [(method.strip("`"), path.strip("`")) for path, method, _ in table]
    assert sorted(told) == sorted(routes | {("GET", "/sandbox/calls/CALL_ID/recording")})
