"""An object store on loopback, as far as the archive goes: S3's requests, without its checks."""

from __future__ import annotations

import hashlib
import re
from contextlib import asynccontextmanager
from email.utils import formatdate
from html import escape, unescape
from typing import TYPE_CHECKING

from aiohttp import web
from callback_shells import serving
from obstore.store import S3Store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

BUCKET = "bucket"
KEY_ID, KEY = "planted-key-id", "planted-access-key"


class ObjectServer:
    """Objects by key, and what was asked for.

    Attributes:
        objects: what is there.
        asked: method and path of each request.
        status: of every answer, where it is not to do what it is asked.
        tags_what_is_put: whether the answer to PUT has an entity tag.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.status = 200
        self.tags_what_is_put = True
        self.url = ""
        self._parts: dict[int, bytes] = {}

    async def answer(self, request: web.Request) -> web.Response:  # noqa: PLR0911 - a table
        """Answer one request."""
        key = request.path.removeprefix(f"/{BUCKET}").removeprefix("/")
        self.asked.append(f"{request.method} {key}")
        if self.status != 200:
            return web.Response(status=self.status)
        match request.method:
            case "GET" if not key:
                return self._list(request.query.get("prefix", ""))
            case "GET" | "HEAD":
                return self._read(request, key)
            case "PUT" if "partNumber" in request.query:
                part = await request.read()
                self._parts[int(request.query["partNumber"])] = part
                return web.Response(headers={"ETag": _tag(part)})
            case "PUT":
                self.objects[key] = await request.read()
                tag = {"ETag": _tag(self.objects[key])} if self.tags_what_is_put else {}
                return web.Response(headers=tag)
            case "DELETE":  # so do old versions of obstore
                self.objects.pop(key, None)
                return web.Response(status=204)
            case "POST" if "delete" in request.query:
                # So do new ones, also where it is one object only.
                gone = re.findall("<Key>(.*?)</Key>", await request.text())
                for one in gone:
                    self.objects.pop(unescape(one), None)
                found = "".join(f"<Deleted><Key>{one}</Key></Deleted>" for one in gone)
                return _xml(f"<DeleteResult>{found}</DeleteResult>")
            case "POST":
                return self._in_parts(request, key)
            case _:
                return web.Response(status=405)

    def _list(self, prefix: str) -> web.Response:
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size>"
            "<LastModified>2026-01-31T00:00:00Z</LastModified></Contents>"
            for key, data in sorted(self.objects.items())
            if key.startswith(prefix)
        )
        return _xml(f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>")

    def _read(self, request: web.Request, key: str) -> web.Response:
        data = self.objects.get(key)
        if data is None:
            return web.Response(status=404)
        headers = {"ETag": _tag(data), "Last-Modified": formatdate(0, usegmt=True)}
        asked = request.http_range
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(data))})
        if asked.start is None:
            return web.Response(body=data, headers=headers)
        part = data[asked]
        headers["Content-Range"] = f"bytes {asked.start}-{asked.start + len(part) - 1}/{len(data)}"
        return web.Response(status=206, body=part, headers=headers)

    def _in_parts(self, request: web.Request, key: str) -> web.Response:
        if "uploads" in request.query:
            self._parts.clear()
            return _xml(
                "<InitiateMultipartUploadResult><UploadId>1</UploadId>"
                "</InitiateMultipartUploadResult>"
            )
        data = self.objects[key] = b"".join(part for _, part in sorted(self._parts.items()))
        return _xml(
            f"<CompleteMultipartUploadResult><ETag>{escape(_tag(data))}</ETag>"
            "</CompleteMultipartUploadResult>"
        )


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'  # noqa: S324 - as S3 does


def _xml(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/xml")


@asynccontextmanager
async def object_server() -> AsyncGenerator[ObjectServer]:
    """A running one, with no object in it."""
    server = ObjectServer()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", server.answer)
    async with serving(app) as port:
        server.url = f"http://127.0.0.1:{port}"
        yield server


def store_at(url: str) -> S3Store:
    """The store that a user makes of it."""
    return S3Store(
        BUCKET,
        prefix="rec",
        endpoint=url,
        access_key_id=KEY_ID,
        secret_access_key=KEY,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
