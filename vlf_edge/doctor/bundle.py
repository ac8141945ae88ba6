"""A ZIP for a bug report: what was found, and what it was found from, without what is nobody else's business."""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ..atomic import Replacement
from ..errors import VlfError
from ..plan import Plan
from .machine import Machine
from .report import Sections, to_json, to_text

_HIDDEN = "***"
_HOMES = re.compile(r"(/(?:home|Users|media|run/media|var/home)/)[^/\s\"':,]+")
# A password may hold any character, an @ too: all up to the last one goes.
_CREDENTIALS = re.compile(r"([a-zA-Z][\w+.-]*://)[^\s\"'<>]*@")
_PARAMETERS = re.compile(r"(?i)([?&;](?:[\w-]*(?:token|key|pass|pwd|auth|secret|sig)[\w-]*)=)[^&\s\"'<>]+")
_SECRET_NAMES = re.compile(r"(?i)token|key|secret|pass|pwd|credential|auth")
_NO_SECRETS = ("PWD", "OLDPWD")
_LEAST_SECRET = 4  # characters; shorter values are in every text


class Recorder:
    """Notes what a machine was asked and answered: the log of a bundle."""

    def __init__(self, machine: Machine, clock: Callable[[], float] = time.monotonic):
        self._clock, self._began_s = clock, clock()
        self.lines: list[str] = []
        self.machine = replace(machine, run=self._noting(machine.run), ask=self._noting(machine.ask))

    def _noting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*words: str, **limits: float) -> Any:
            started_s = self._clock()
            answer = function(*words, **limits)
            now_s = self._clock()
            asked = f"{' '.join(words)}  ({now_s - started_s:.2f} s)"
            # One append for each: checks run on threads of their own.
            self.lines.append(f"{now_s - self._began_s:8.2f} s  {asked}: {answer!r}")
            return answer

        return noted


def write_bundle(
    path: Path, sections: Sections, log: list[str], plan: Path | None = None, with_weights: bool = False
) -> list[str]:
    """Writes the ZIP; returns the names of what is in it.

    log: lines. plan: its manifest and its report go along; with_weights: the plan itself too, as it is. Raises VlfError
    if it cannot be written.
    """
    packages = sorted({f"{one.metadata['Name']} {one.version}" for one in metadata.distributions()}, key=str.lower)
    texts = {
        "report.json": json.dumps(to_json(sections), indent=1, ensure_ascii=False),
        "report.txt": to_text(sections),
        "packages.txt": "\n".join(packages),
        "log.txt": "\n".join(log),
    }
    if plan is not None:
        with suppress(VlfError):  # which the report tells of
            opened = Plan.open(plan)
            texts["plan/manifest.json"] = json.dumps(opened.manifest.to_json(), indent=1, ensure_ascii=False)
            texts["plan/report.json"] = json.dumps(opened.report, indent=1, ensure_ascii=False)
    try:
        new = Replacement(path)
        try:
            with zipfile.ZipFile(new.file, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, text in texts.items():
                    archive.writestr(name, without_secrets(text) + "\n")
                if plan is not None and with_weights:
                    archive.write(plan, "plan/vlf.plan")
            new.commit()
        finally:
            new.discard()
    except OSError as error:
        raise VlfError(f"cannot write {path}: {error.strerror}; name another file with --bundle") from None
    return [*texts, *(["plan/vlf.plan"] if plan is not None and with_weights else [])]


def without_secrets(
    text: str, environment: Mapping[str, str] | None = None, user: str | None = None, host: str | None = None
) -> str:
    """The text without passwords and tokens in URLs, values of environment variables that are named like secrets, the
    user's name in paths, and the machine's name."""
    environment = os.environ if environment is None else environment
    text = _PARAMETERS.sub(rf"\1{_HIDDEN}", _CREDENTIALS.sub(rf"\1{_HIDDEN}@", text))
    secrets = {value for name, value in environment.items() if _SECRET_NAMES.search(name) and name not in _NO_SECRETS}
    for secret in sorted((one for one in secrets if len(one) >= _LEAST_SECRET), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
        text = text.replace(json.dumps(secret)[1:-1], _HIDDEN)
    home = environment.get("HOME", "").rstrip("/")
    if home.count("/") > 1:
        text = text.replace(home, "~")
    text = _HOMES.sub(r"\1USER", text)
    user = _user() if user is None else user
    if user and user != "root":
        text = re.sub(rf"(?<=/){re.escape(user)}(?=[/\s\"':,]|$)", "USER", text)
    host = socket.gethostname() if host is None else host
    return re.sub(rf"\b{re.escape(host)}\b", "HOST", text) if len(host) >= _LEAST_SECRET else text


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        return ""
