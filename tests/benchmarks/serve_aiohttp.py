"""A receiver that keeps nothing, on aiohttp: ``serve_aiohttp.py PORT PATH bare|json``.

The bare one is the ceiling of what stands on aiohttp: it reads the body, and answers.
"""

from __future__ import annotations

import sys

from aiohttp import web
from lifetime import end_with_parent, freeze_imports

ANSWER = b'{"code":"200","msg":"success","data":""}'


async def bare(request: web.Request) -> web.Response:
    """Look at nothing."""
    await request.read()
    return web.Response(body=ANSWER, content_type="application/json", charset="utf-8")


async def with_json(request: web.Request) -> web.Response:
    """Read the JSON, and write some."""
    body = await request.json()
    if body["status"] != "Disconnected":
        raise web.HTTPBadRequest
    return web.json_response({"code": "200", "msg": "success", "data": ""})


app = web.Application()
app.router.add_post(sys.argv[2], {"bare": bare, "json": with_json}[sys.argv[3]])
end_with_parent()
freeze_imports()
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
