"""The sources of a run, each under the name of its stream: from the command line or a configuration, read anew."""

from __future__ import annotations

import argparse
import logging
import threading
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from ..errors import VlfError
from ..options import given_options
from ..video.sources import Address, SourceOptions, find_source, last_part
from .config import Camera

if TYPE_CHECKING:
    from ..runtime import Runtime

log = logging.getLogger(__name__)
OF_CAMERAS = frozenset(f.name for f in fields(SourceOptions))
"""The arguments that a camera of a configuration may set for itself."""


def find_cameras(args: argparse.Namespace) -> dict[str, Address]:
    """{stream name: what it is read from}: what is named on the command line, else the cameras of the configuration.

    Raises SourceError, VlfError.
    """
    if args.source:
        options = SourceOptions(**given_options(args, SourceOptions))
        return {name: find_source(source, options) for name, source in name_sources(args.source).items()}
    return {name: find_source(camera.source, _options(args, camera)) for name, camera in args.cameras.items()}


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
        addresses = find_cameras(args)
        removed = [name for name in self._now if name not in wanted]
        added = [name for name in wanted if name not in self._now]
        changed = [name for name in wanted if name in self._now and wanted[name] != self._now[name]]
        if removed or added or changed:
            if self.runtime is None:
                raise VlfError("the run has not begun yet; try again")
            self.runtime.change_sources([*removed, *changed], {name: addresses[name] for name in (*changed, *added)})
        self._now = wanted
        found = {"added": added, "changed": changed, "removed": removed}
        said = [f"{what} {', '.join(names)}" for what, names in found.items() if names]
        return said or ["the cameras are as they were"]


def _wanted(args: argparse.Namespace) -> dict[str, tuple[str, SourceOptions]]:
    """What makes each camera of a configuration what it is."""
    return {name: (camera.source, _options(args, camera)) for name, camera in args.cameras.items()}


def _differing(before: argparse.Namespace, after: argparse.Namespace) -> list[str]:
    """The options, as they are called in a configuration, that a run takes up at its start alone."""
    old, new = vars(before), vars(after)
    return sorted(called for name, called in before.called.items() if name not in OF_CAMERAS and old[name] != new[name])


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


def _options(args: argparse.Namespace, camera: Camera) -> SourceOptions:
    """Of the run, and what the camera says otherwise."""
    return SourceOptions(**{**given_options(args, SourceOptions), **camera.options})
