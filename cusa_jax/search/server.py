"""The page to search one's photos, and what it asks for: answers as JSON, pictures by their number in the index.

Only this machine is answered. No address names a file, so nothing outside the index can be read.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cusa_jax.errors import InputError, one_line
from cusa_jax.search import pictures
from cusa_jax.search.finder import Finder, Hit

LIMIT = 1000  # photos of one answer, over all its pages
PAGE = 40
MAX_UPLOAD = 40 << 20  # bytes
_MAX_TEXT = 2000  # characters
_KEPT = 64  # answers and dropped photos
_ASSETS = Path(__file__).parent.parent / "assets" / "search"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


def app(finder: Finder) -> Starlette:
    """The server of one index."""
    pages = _Pages(finder)
    routes = [
        Route("/", pages.page),
        Route("/page.js", functools.partial(_asset, "page.js", "text/javascript")),
        Route("/page.css", functools.partial(_asset, "page.css", "text/css")),
        Route("/find", pages.find),
        Route("/photo", pages.dropped, methods=["POST"]),
        Route("/thumbnail/{number}", pages.thumbnail),
        Route("/large/{number}", pages.large),
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False)
    return Starlette(
        routes=routes, middleware=[Middleware(_SameSite), hosts], exception_handlers={HTTPException: _told}
    )


async def _told(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


async def _asset(name: str, kind: str, _request: Request) -> Response:
    return Response((_ASSETS / name).read_bytes(), media_type=kind)


class _SameSite:
    """Refuses what other sites make the browser ask for, and tells the browser what the page may load."""

    def __init__(self, inner: ASGIApp):
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        headers = dict(scope.get("headers", ()))
        navigates = headers.get(b"sec-fetch-mode") == b"navigate" and scope.get("path") == "/"
        if headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site") and not navigates:
            refused = JSONResponse({"error": "another site asked for this"}, 403)
            await refused(scope, receive, with_headers)
        else:
            await self.inner(scope, receive, with_headers)


class _Recent(OrderedDict[Any, Any]):
    """The _KEPT newest of a kind."""

    def keep(self, key: Any, value: Any) -> Any:
        self[key] = value
        while len(self) > _KEPT:
            self.popitem(last=False)
        return value


class _Pages:
    def __init__(self, finder: Finder):
        self.finder = finder
        self.root = os.path.commonpath({os.path.dirname(path) for path in finder.photos})
        self.answers, self.queries = _Recent(), _Recent()
        # Large photos need much memory to decode, and uploads to hold: a few at a time, the others wait.
        self.decoding, self.uploading = asyncio.Semaphore(os.cpu_count() or 2), asyncio.Semaphore(2)
        self.searching = asyncio.Semaphore(1)
        environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_ASSETS), autoescape=True)
        content = {"count": len(finder.photos), "folder": one_line(self.root), "limit": MAX_UPLOAD}
        self.html = environment.get_template("page.html.j2").render(content).encode("utf-8", "replace")

    async def page(self, _request: Request) -> Response:
        return HTMLResponse(self.html)

    async def find(self, request: Request) -> Response:
        """Hits `start` and following for one of ?text=, ?photo= (what /photo returned), ?like= (a number)."""
        asked = request.query_params
        try:
            start = max(0, int(asked.get("start", "0")))
        except ValueError as error:
            raise HTTPException(400, "start is a number of hits") from error
        async with self.searching:
            hits, note = await run_in_threadpool(self._answer, asked)
        shown = [self._told(hit) for hit in hits[start : start + PAGE]]
        return JSONResponse({"hits": shown, "total": len(hits), "start": start, "note": note})

    def _answer(self, asked: Mapping[str, str]) -> tuple[list[Hit], str]:
        key = tuple(asked.get(name, "") for name in ("text", "photo", "like", "together"))
        if key in self.answers:
            return self.answers[key]
        hits, note = self._search(*key[:3])
        return self.answers.keep(key, (self.finder.together(hits) if key[3] else hits, note))

    def _search(self, text: str, photo: str, like: str) -> tuple[list[Hit], str]:
        if bool(text.strip()) + bool(photo) + bool(like) != 1:
            raise HTTPException(400, "ask with a text, or with a photo")
        if len(text) > _MAX_TEXT:
            raise HTTPException(400, f"the text is longer than {_MAX_TEXT} characters")
        if text.strip():
            embedding, cut = self.finder.embed_text(text)
            note = (
                "Only the beginning of the text was used: it is longer than the model reads." if cut else ""
            )
            return self.finder.by_text(embedding, LIMIT), note
        if like:
            return self.finder.by_picture(self.finder.uni[self._number(like)], LIMIT), ""
        if photo not in self.queries:
            raise HTTPException(410, "this photo was dropped too long ago: drop it again")
        return self.finder.by_picture(self.queries[photo], LIMIT), ""

    async def dropped(self, request: Request) -> Response:
        """The body is a picture; returns the key that `find` takes."""
        said = request.headers.get("content-length", "0")
        if not said.isdigit() or int(said) > MAX_UPLOAD:
            raise _too_large()
        async with self.uploading:
            body = bytearray()
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_UPLOAD:
                    raise _too_large()
            key = hashlib.sha256(body).hexdigest()
            if key not in self.queries:
                self.queries.keep(key, await run_in_threadpool(self._embed, bytes(body)))
        return JSONResponse({"photo": key})

    def _embed(self, body: bytes) -> np.ndarray:
        try:
            picture = pictures.decoded(body)
        except InputError as error:
            raise HTTPException(415, "this file is not a picture that can be read") from error
        return self.finder.embed_picture(picture)

    async def thumbnail(self, request: Request) -> Response:
        return await self._picture(pictures.thumbnail, request)

    async def large(self, request: Request) -> Response:
        return await self._picture(pictures.large, request)

    async def _picture(self, made: Any, request: Request) -> Response:
        path = Path(self.finder.photos[self._number(request.path_params["number"])])
        async with self.decoding:
            try:
                content = await run_in_threadpool(made, path)
            except InputError as error:
                # What has been there once was moved or deleted since.
                reason = "cannot be read any more" if path.exists() else "is not there any more"
                raise HTTPException(404, f"this photo {reason}") from error
        # The same number is another photo of the next index, and the file may change.
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    def _number(self, number: str) -> int:
        if not number.isdecimal() or len(number) > 12 or int(number) >= len(self.finder.photos):
            raise HTTPException(404, "there is no such photo in the index")
        return int(number)

    def _told(self, hit: Hit) -> dict[str, Any]:
        alike = [{"number": number, "path": self._shown(number)} for number in hit.alike]
        return {
            "number": hit.number,
            "score": round(hit.score, 4),
            "path": self._shown(hit.number),
            "alike": alike,
        }

    def _shown(self, number: int) -> str:
        name = os.path.relpath(self.finder.photos[number], self.root)
        return one_line(os.fsencode(name).decode("utf-8", "backslashreplace"))


def _too_large() -> HTTPException:
    return HTTPException(413, f"this file is larger than {MAX_UPLOAD >> 20} MB")
