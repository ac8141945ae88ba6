"""Who may look, and who may ask for something: the token, the names under which the page may be asked for, where it was
asked, and what browsers are told to forbid."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

from ..errors import VlfError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MIN_TOKEN = 16
# The page itself holds no secrets, and asks for the token.
OPEN_PATHS = ("/", "/page.css", "/page.js", "/lesson.js", "/login", "/logout")
_READING = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


def read_token(path: str | Path) -> str:
    """The token in a file. Raises VlfError if there is none, or one that could be guessed."""
    try:
        token = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise VlfError(f"cannot read the token file {path}: {why}", remedy=_make_one(path)) from None
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise VlfError(
            f"{path} holds no token: expected one line of {MIN_TOKEN} or more ASCII characters without spaces, got "
            f"{len(token)}",
            remedy=_make_one(path),
        )
    return token


def make_token() -> str:
    """A token that cannot be guessed."""
    return secrets.token_urlsafe(24)


def _make_one(path: str | Path) -> str:
    return f"make one: (umask 077; openssl rand -hex 24 > {path})"


class Access:
    """Says who may look.

    token: None lets everybody who reaches the port. port: distinguishes the cookies of several pages of one machine,
    which browsers do not. names: under which the page may be asked for, besides numeric addresses and "localhost".
    """

    def __init__(self, token: str | None, port: int, names: Iterable[str] = ()):
        self._token, self._cookie = token, f"vlf_edge_{port}"
        # What the cookie holds is not the token, which opens more than a browser; and it outlives a restart.
        self._session = hmac.new((token or "").encode(), b"vlf_edge session", hashlib.sha256).hexdigest()
        machine = socket.gethostname().lower()
        self._names = {"localhost", machine, f"{machine}.local", *(name.lower() for name in names if name)}

    @property
    def token_needed(self) -> bool:
        """Whether viewers have to show a token."""
        return self._token is not None

    def knows_host(self, host: str) -> bool:
        """Whether a Host header names this machine. A stranger's page can make its own name lead here (DNS
        rebinding), but not a numeric address."""
        name = host.strip().lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.rpartition(":")[0] or name
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def opens(self, token: str) -> bool:
        """Whether this is the token, found out in a time that tells nothing of it."""
        return self._token is None or hmac.compare_digest(token.encode(), self._token.encode())

    def allows(self, authorization: str, cookie: str) -> bool:
        """Whether the headers of a request let it in."""
        if self._token is None:
            return True
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer" and self.opens(token.strip()):
            return True
        try:
            morsel = SimpleCookie(cookie).get(self._cookie)
        except CookieError:
            return False
        return morsel is not None and hmac.compare_digest(morsel.value.encode(), self._session.encode())

    def set_cookie(self, inside: bool) -> str:
        """The Set-Cookie header that lets a browser in, or puts it out."""
        kept = f"{self._session}; Max-Age={30 * 86400}" if inside else "; Max-Age=0"
        return f"{self._cookie}={kept}; Path=/; HttpOnly; SameSite=Strict"


class Guard:
    """An ASGI app around another, which only those reach who may; every answer gets the headers that bind browsers."""

    def __init__(self, app: App, access: Access):
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.decode().lower() not in _HEADERS]
                message = {**message, "headers": [*kept, *((n.encode(), v.encode()) for n, v in _HEADERS.items())]}
            await send(message)

        refusal = self._refusal(scope["method"], scope["path"], headers)
        if refusal is None:
            return await self._app(scope, receive, send_guarded)
        status, why = refusal
        body = json.dumps({"error": why}).encode()
        given = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status == 401:
            given.append((b"www-authenticate", b"Bearer"))
        await send_guarded({"type": "http.response.start", "status": status, "headers": given})
        await send_guarded({"type": "http.response.body", "body": body})

    def _refusal(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """Why a request is refused, with the status; None if it is not."""
        if not self._access.knows_host(headers.get("host", "")):
            return 421, "the Host header names another machine; ask by this one's address or host name"
        strange = headers.get("sec-fetch-site") == "cross-site" and path != "/"
        if strange or method not in _READING and not _own(headers):
            return 403, "asked for by another site's page"
        if path in OPEN_PATHS or self._access.allows(headers.get("authorization", ""), headers.get("cookie", "")):
            return None
        return 401, "a token is needed: Authorization: Bearer TOKEN, or log in on the page"


def _own(headers: Mapping[str, str]) -> bool:
    """Whether what changes something is asked for by the page itself, or by a program, which says nothing of where it
    comes from. Browsers say it: in Origin, and before that in what no proxy between changes. They leave the latter out
    where the page came unencrypted from another machine."""
    if (site := headers.get("sec-fetch-site")) is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2].lower() == headers.get("host", "").lower()
