"""The page and its interface, as docs/serve.md tells it: a thin layer over the board. The one file that imports
Starlette."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from .access import Access, App, Guard
from .board import Board
from .lesson import Closed, LessonBoard
from .metrics import CONTENT_TYPE, Metrics
from .pictures import Pictures

_PAGE = Path(__file__).parent / "page"
_STATE_S = 0.1  # one answer serves all who ask within it
_EVENTS_S, _PICTURE_S = 0.2, 0.08  # between two looks for something new
_HEARTBEAT_S = 15.0
_BODY_BYTES = 4096
_MOST_EVENTS = 500
_CLIP_TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".avi": "video/x-msvideo", ".mkv": "video/x-matroska"}
_BOUNDARY = "vlf-edge-picture"


class Streaming:
    """The answers that never end: at most ``most`` at a time, and none once the server is closing."""

    def __init__(self, closing: Callable[[], bool], most: int = 16):
        self.closing, self._most, self.now = closing, most, 0

    def answer(self, parts: AsyncIterator[bytes], media_type: str) -> Response:
        """An answer of these parts, if there is room for it."""
        if self.now >= self._most:
            return _error(503, f"{self._most} viewers follow already; try again later")
        return StreamingResponse(self._counted(parts), media_type=media_type, headers={"x-accel-buffering": "no"})

    async def _counted(self, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self.now += 1
        try:
            async for part in parts:
                yield part
        finally:
            self.now -= 1


class Handlers:
    """One method for each address."""

    def __init__(self, board: Board, access: Access, streaming: Streaming, lesson: LessonBoard | None):
        self._board, self._access, self._streaming, self._lesson = board, access, streaming, lesson
        self._pictures, self._metrics = Pictures(board), Metrics(board)
        self._state, self._state_s = b"", float("-inf")

    async def state(self, request: Request) -> Response:
        now_s = time.monotonic()
        if now_s - self._state_s >= _STATE_S:
            state = {**self._board.state(), "token_needed": self._access.token_needed}
            state["lesson"] = self._lesson and self._lesson.state()
            self._state, self._state_s = json.dumps(state).encode(), now_s
        return Response(self._state, media_type="application/json")

    async def healthz(self, request: Request) -> Response:
        reason = self._board.health()
        return JSONResponse({"ok": reason is None, "reason": reason}, 200 if reason is None else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def picture(self, request: Request) -> Response:
        """The newest JPEG; 204 while it is the one that ``after`` names."""
        try:
            newest = await asyncio.to_thread(self._pictures.newest, request.path_params["stream"])
        except KeyError as error:
            return _no_stream(error)
        if newest is None or request.query_params.get("after") == str(newest[0]):
            return Response(status_code=204)
        return Response(newest[1], media_type="image/jpeg", headers={"x-picture": str(newest[0])})

    async def video(self, request: Request) -> Response:
        """Motion JPEG, for programs that play it."""
        stream = request.path_params["stream"]
        try:
            self._board.image(stream)
        except KeyError as error:
            return _no_stream(error)
        return self._streaming.answer(self._jpegs(stream), f"multipart/x-mixed-replace; boundary={_BOUNDARY}")

    async def _jpegs(self, stream: str) -> AsyncIterator[bytes]:
        sent = 0
        while not self._streaming.closing():
            newest = await asyncio.to_thread(self._pictures.newest, stream)
            if newest is not None and newest[0] != sent:
                sent, jpeg = newest
                yield b"--%s\r\ncontent-type: image/jpeg\r\ncontent-length: %d\r\n\r\n%s\r\n" % (
                    _BOUNDARY.encode(), len(jpeg), jpeg,
                )  # fmt: skip
            await asyncio.sleep(_PICTURE_S)

    async def events(self, request: Request) -> Response:
        """JSON; or, for those who accept text/event-stream, server-sent events."""
        asked = request.query_params
        wanted = {name: asked[name] for name in ("stream", "label") if name in asked}
        since = request.headers.get("last-event-id") or asked.get("since", "")
        follows = "text/event-stream" in request.headers.get("accept", "")
        try:
            limit = int(asked.get("limit", _MOST_EVENTS if follows else 100))
            if not 1 <= limit <= _MOST_EVENTS:
                raise ValueError(f"limit is {limit}; expected 1 to {_MOST_EVENTS}")
            found, cursor = self._board.events_since(since, limit=limit, **wanted)
        except ValueError as error:
            return _error(400, str(error))
        if follows:
            return self._streaming.answer(self._told(since, limit, wanted), "text/event-stream")
        return JSONResponse({"events": [event for _, event in found], "cursor": cursor})

    async def _told(self, since: str, limit: int, wanted: dict[str, str]) -> AsyncIterator[bytes]:
        yield b"retry: 2000\n\n"
        quiet_since_s = time.monotonic()
        while not self._streaming.closing():
            found, since = self._board.events_since(since, limit=limit, **wanted)
            for cursor, event in found:
                yield f"id: {cursor}\nevent: action\ndata: {json.dumps(event)}\n\n".encode()
            now_s = time.monotonic()
            if found:
                quiet_since_s = now_s
            elif now_s - quiet_since_s >= _HEARTBEAT_S:  # who has gone is noticed only by writing
                quiet_since_s = now_s
                yield b":\n\n"
            await asyncio.sleep(_EVENTS_S)

    async def clip(self, request: Request) -> Response:
        """The video of an event, whole or in ranges."""
        stream, number = request.path_params["stream"], request.path_params["event"]
        path = self._board.clip(stream, number)
        if path is None:
            return _error(404, f"there is no clip of event {number} of {stream}")
        kind = _CLIP_TYPES.get(path.suffix.lower(), "application/octet-stream")
        return FileResponse(path, media_type=kind, filename=path.name, content_disposition_type="inline")

    async def login(self, request: Request) -> Response:
        body = await _body(request)
        if isinstance(body, Response):
            return body
        token = parse_qs(body.decode(errors="replace")).get("token", [""])[0]
        if not self._access.opens(token):
            return _error(401, "this is not the token")
        return Response(status_code=204, headers={"set-cookie": self._access.set_cookie(True)})

    async def logout(self, request: Request) -> Response:
        return Response(status_code=204, headers={"set-cookie": self._access.set_cookie(False)})

    async def lesson(self, request: Request) -> Response:
        """What somebody who teaches asks for. That it is said to be JSON is what no form of another site can send."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _error(415, "expected JSON, with content-type: application/json")
        body = await _body(request)
        if isinstance(body, Response):
            return body
        try:
            self._lesson.ask(body)
        except ValueError as error:
            return _error(400, str(error))
        except Closed as error:
            return _error(error.status, str(error))
        return Response(status_code=204)

    def routes(self) -> list[Route]:
        pages = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js", "/lesson.js": "lesson.js"}
        lesson = [] if self._lesson is None else [Route("/api/lesson", self.lesson, methods=["POST"])]
        return [
            *lesson,
            *(Route(path, _file(name)) for path, name in pages.items()),
            Route("/login", self.login, methods=["POST"]),
            Route("/logout", self.logout, methods=["POST"]),
            Route("/healthz", self.healthz),
            Route("/metrics", self.metrics),
            Route("/api/state", self.state),
            Route("/api/events", self.events),
            Route("/api/clips/{stream:path}/{event:int}", self.clip),
            Route("/api/streams/{stream:path}/picture", self.picture),
            Route("/api/streams/{stream:path}/video", self.video),
        ]


def create_app(
    board: Board,
    access: Access,
    closing: Callable[[], bool] = lambda: False,
    lesson: LessonBoard | None = None,
) -> App:
    """The ASGI app of a board. closing: whether answers that never end are to end now. lesson: see ``PageServer``."""
    handlers = Handlers(board, access, Streaming(closing), lesson)
    return Guard(Starlette(routes=handlers.routes()), access)


def _file(name: str) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        return FileResponse(_PAGE / name)

    return answer


async def _body(request: Request) -> bytes | Response:
    """What was sent, or why it is refused."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _BODY_BYTES:
            return _error(413, f"expected at most {_BODY_BYTES} bytes")
    return body


def _error(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status)


def _no_stream(error: KeyError) -> Response:
    return _error(404, f"there is no stream {error}")
