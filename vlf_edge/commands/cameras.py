"""The sources of a run, each under the name of its stream: from the command line or a configuration, read anew."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from ..errors import VlfError
from ..options import given_options
from ..video.sources import Address, SourceOptions, find_source, last_part
from .config import Camera, Config

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

    The others go on undisturbed. What is wrong with it is logged, and nothing changes then.
    """

    def __init__(self, args: argparse.Namespace, runtime: Runtime):
        self._args, self._runtime = args, runtime
        config: Config = args.read_config()
        self._now, self._begun_with = config.cameras, config.defaults

    def __call__(self) -> None:
        try:
            new = self._args.read_config()
            addresses = {
                name: (camera, find_source(camera.source, _options(self._args, camera)))
                for name, camera in new.cameras.items()
            }
        except VlfError as error:
            log.error("the configuration stays as it was: %s", error)
            return
        if self._args.source:
            log.warning("the sources of the command line go on: the configuration's cameras are for runs without them")
            return
        if not new.cameras:
            log.error("the cameras stay as they were: the configuration names none")
            return
        changed = {name: address for name, (camera, address) in addresses.items() if self._now.get(name) != camera}
        gone = [name for name, camera in self._now.items() if new.cameras.get(name) != camera]
        try:
            self._runtime.change_sources(gone, changed)
        except VlfError as error:  # such as a file that is missing
            log.error("the cameras stay as they were: %s", error)
            return
        self._now = new.cameras
        log.info("cameras now: %s", ", ".join(self._now))
        if differing := sorted(dict(new.defaults.items() ^ self._begun_with.items())):
            log.warning("this takes a restart: %s", ", ".join(differing))


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
