"""Addresses that hold passwords: taken apart leniently, shown without them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from ...errors import SourceError

HIDDEN = "***"
# An address in brackets, or a name; what is a number and nothing else is the end of a path such as /stream@2.
_HOST = re.compile(r"(?!\d+(?:[:/?#]|$))(\[[\w:.%]+\]|[^\s/?#@:\[\]\\]+)(?::(\d{1,5}))?(?=[/?#]|$)")
_SECRET_VALUE = re.compile(
    r"((?:pass\w*|pw\w*|token|secret|\w*key|auth\w*|sig\w*|credential\w*|session\w*|user-pw)\s*=\s*)[^&]+", re.I
)


@dataclass(frozen=True, repr=False)
class Url:
    """``scheme://user:password@host:port/rest``. As text it is fit to be printed: the password is hidden.

    user, password: as the camera knows them, without percent-encoding; None where there is none. rest: from the first
    character after the port to the end, with what the user wrote.
    """

    scheme: str
    user: str | None
    password: str | None
    host: str
    port: int | None
    rest: str

    @classmethod
    def parse(cls, text: str) -> Url:
        """What stands before the last @ that a host can follow is user and password, whatever is in it: @ : / % #.

        A % with two hexadecimal digits after it is the character of that code. Raises SourceError, without secrets.
        """
        scheme, mark, rest = text.partition("://")
        end = _end_of_secrets(rest)
        secrets, place = (rest[:end], rest[end + 1 :]) if end >= 0 else (None, rest)
        host = _HOST.match(place)
        if not mark or host is None or not text.isprintable() or int(host[2] or 0) > 65535:
            raise SourceError(f"{scheme[:20]}://{HIDDEN} is no address; expected scheme://user:password@host:port/path")
        user, password = None, None
        if secrets is not None:
            first, colon, second = secrets.partition(":")
            user, password = unquote(first), unquote(second) if colon else None
        return cls(scheme.lower(), user, password, host[1], int(host[2]) if host[2] else None, place[host.end() :])

    @property
    def path(self) -> str:
        """The path alone, without a query."""
        return re.split(r"[?#]", self.rest)[0]

    @property
    def place(self) -> str:
        """host:port"""
        return self.host if self.port is None else f"{self.host}:{self.port}"

    def reveal(self) -> str:
        """All of it, percent-encoded: for the library that connects, and for nobody else."""
        secrets = ""
        if self.user is not None:
            secrets = quote(self.user, safe="") + ("" if self.password is None else ":" + quote(self.password, safe=""))
            secrets += "@"
        return f"{self.scheme}://{secrets}{self.place}{quote(self.rest, safe=_AS_WRITTEN)}"

    def __str__(self) -> str:
        # A word without a password may be a token.
        secrets = "" if self.user is None else f"{HIDDEN}@" if self.password is None else f"{self.user}:{HIDDEN}@"
        return f"{self.scheme}://{secrets}{self.place}{_without_values(self.rest)}"

    __repr__ = __str__


_AS_WRITTEN = "%/:?#[]@!$&'()*+,;=~"


def is_pipeline(name: str) -> bool:
    """Whether a user wrote a GStreamer pipeline; a password may hold " ! " too."""
    return name.startswith("gst:") or (" ! " in name and re.match(r"\w+://", name) is None)


def hidden(name: str) -> str:
    """What a user wrote as a source, fit to be printed: an address without its password; of a pipeline that may hold
    one, the names of its elements."""
    if is_pipeline(name):
        if not re.search(r"://|(?:pw|pass\w*|token|key|secret)\s*=", name, re.I):
            return name
        return " ! ".join(re.match(r"\s*(?:gst:(?://)?\s*)?([\w-]*)", part)[1] for part in name.split(" ! "))
    if "://" not in name:  # a file; or an address that is mistyped
        return re.sub(r":.+@", f":{HIDDEN}@", name, flags=re.S)
    if not _in_network(name):
        return name
    try:
        return str(Url.parse(name))
    except SourceError:
        return f"{name.partition('://')[0][:20]}://{HIDDEN}"


def last_part(name: str) -> str:
    """What a source is called for short, fit to be printed: the last part of its path; the host where it has none."""
    shown = hidden(name)
    if _in_network(name):
        try:
            url = Url.parse(name)
        except SourceError:
            return HIDDEN
        return os.path.basename(_without_values(url.path).rstrip("/")) or url.place
    return os.path.basename(shown.rstrip("/")) or shown


def _in_network(name: str) -> bool:
    scheme, mark, _ = name.partition("://")
    return bool(mark) and not is_pipeline(name) and scheme not in ("file", "test", "v4l2", "csi")


def _end_of_secrets(rest: str) -> int:
    """Where the @ before the host is; -1 if there is none."""
    for part in (rest.split("?")[0], rest):
        ends = [at.start() for at in re.finditer("@", part) if _HOST.match(rest, at.end())]
        if ends and not (_HOST.match(rest) and ":" not in rest[: ends[-1]]):
            return ends[-1]
        if _HOST.match(part):  # what @ there is belongs to the path or to the query
            return -1
    return -1


def _without_values(rest: str) -> str:
    """Cameras take passwords in paths and queries too: /user=admin&password=... ."""
    return _SECRET_VALUE.sub(rf"\1{HIDDEN}", rest)
