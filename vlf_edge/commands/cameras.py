"""The sources of a run, each under the name of its stream: from the command line or a configuration, read anew."""

from __future__ import annotations

import argparse
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from ..errors import VlfError
from ..options import given_options
from ..runtime.camera import Camera
from ..runtime.event_settings import EventSettings
from ..runtime.limits import Limits
from ..video.sources import SourceOptions, find_source, last_part
from .event_options import event_settings

if TYPE_CHECKING:
    from ..runtime import Runtime

log = logging.getLogger(__name__)
OF_CAMERAS = frozenset(f.name for cls in (SourceOptions, Limits, EventSettings) for f in fields(cls)) - {
    "engine_timeout_s"
}
"""The arguments that a camera of a configuration may set for itself."""


@dataclass(frozen=True)
class _Wanted:
    """What makes a camera what it is."""

    source: str
    options: SourceOptions
    limits: Limits
    events: EventSettings | None

    @classmethod
    def of(cls, args: argparse.Namespace, source: str, own: dict[str, Any]) -> _Wanted:
        """own: {argument: value} of those that it sets for itself. Raises VlfError."""
        args = argparse.Namespace(**{**vars(args), **own})
        limits = {name: value for name, value in given_options(args, Limits).items() if name in OF_CAMERAS}
        return cls(source, SourceOptions(**given_options(args, SourceOptions)), Limits(**limits), event_settings(args))

    def camera(self) -> Camera:
        """Raises SourceError, VlfError."""
        return Camera(find_source(self.source, self.options), self.limits, self.events)


def find_cameras(args: argparse.Namespace) -> dict[str, Camera]:
    """{stream name: what it is read from, and how}: what is named on the command line, else the cameras of the
    configuration. Raises SourceError, VlfError."""
    if args.source:
        return {name: _Wanted.of(args, source, {}).camera() for name, source in name_sources(args.source).items()}
    return {name: wanted.camera() for name, wanted in _wanted(args).items()}


class Reload:
    """Reads the configuration of a run anew, and changes the cameras that are not as they were.

    The others go on undisturbed. What is wrong with it is logged, and nothing changes then. One sentence in the log
    says what came of it. args: of the run, with ``read_anew``, which gives them as the configuration is then.
    runtime: whose sources change; None until it is open.
    """

    def __init__(self, args: argparse.Namespace):
        self._args, self._now = args, _wanted(args)
        self.runtime: Runtime | None = None
        self._at_once = threading.Lock()

    def __call__(self) -> None:
        with self._at_once:  # signals may come faster than cameras begin
            try:
                log.info("%s read anew: %s", self._args.config, self._reload())
            except VlfError as error:
                log.error("%s could not be read anew, and nothing has changed: %s", self._args.config, error)

    def _reload(self) -> str:
        """What has changed, in words. Raises VlfError, before anything has."""
        args = self._args.read_anew()
        restart = _differing(self._args, args)
        if self._args.source:
            changes = ["the sources are the command line's, and go on"]
        else:
            changes = self._change(args)
        if restart:
            changes.append(f"this takes a restart: {', '.join(restart)}")
        return "; ".join(changes)

    def _change(self, args: argparse.Namespace) -> list[str]:
        wanted = _wanted(args)
        if not wanted:
            raise VlfError("it names no camera; to end the run, stop it")
        if args.events != self._args.events:  # that takes a restart, and until then the cameras go on as they are
            wanted = {
                name: replace(one, events=self._now[name].events if name in self._now else None)
                for name, one in wanted.items()
            }
        cameras = {name: one.camera() for name, one in wanted.items()}
        removed = [name for name in self._now if name not in wanted]
        added = [name for name in wanted if name not in self._now]
        changed = [name for name in wanted if name in self._now and wanted[name] != self._now[name]]
        if removed or added or changed:
            if self.runtime is None:
                raise VlfError("the run has not begun yet; try again")
            self.runtime.change_sources([*removed, *changed], {name: cameras[name] for name in (*changed, *added)})
        self._now = wanted
        found = {"added": added, "changed": changed, "removed": removed}
        said = [f"{what} {', '.join(names)}" for what, names in found.items() if names]
        return said or ["the cameras are as they were"]


def _wanted(args: argparse.Namespace) -> dict[str, _Wanted]:
    """The cameras of a configuration. Raises VlfError, with the line of the table whose settings do not fit."""
    found = {}
    for name, table in args.cameras.items():
        try:
            found[name] = _Wanted.of(args, table.source, table.options)
        except VlfError as error:
            raise VlfError(f"{table.place}: camera {name!r}: {error}") from None
    return found


def _differing(before: argparse.Namespace, after: argparse.Namespace) -> list[str]:
    """The options, as they are called in a configuration, that a run takes up at its start alone."""
    old, new = vars(before), vars(after)
    exchanged = () if before.source else OF_CAMERAS
    return sorted(called for name, called in before.called.items() if name not in exchanged and old[name] != new[name])


def name_sources(sources: Sequence[str]) -> dict[str, str]:
    """A stream name for each source (``last_part``), with a number where two are alike."""
    named: dict[str, str] = {}
    for source in sources:
        name = base = last_part(source)
        number = 1
        while name in named:
            number += 1
            name = f"{base}#{number}"
        named[name] = source
    return named
