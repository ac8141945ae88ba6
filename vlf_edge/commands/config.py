"""Configuration files of a verb: its options under their own names, and cameras each with a table of its own.

    plan = "vlf.plan"
    threads = 2

    [cameras.door]
    source = "rtsp://viewer@192.168.1.7/stream"
    flip = "rotate180"

Whatever the command line takes may stand there, held to the same types and limits; the command line wins. Files are
named relative to the configuration.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import VlfError
from ..toml_file import TomlFile
from ..video.sources import hidden

_CAMERAS = "cameras"
_FILES = ("PLAN", "FILE", "FOLDER")  # metavars of arguments that name one
_NEVER = ("config", "help", "verbose", "source", "cameras")
_HUGE = 1 << 63  # numbers of TOML are smaller
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes", list: "a list"}


@dataclass(frozen=True)
class CameraTable:
    """A camera of a configuration. options: {argument: value} of those that a camera may set for itself. place: where
    its table stands, as messages begin."""

    source: str
    options: dict[str, Any] = field(default_factory=dict)
    place: str = field(default="", compare=False)


@dataclass(frozen=True)
class Config:
    """What a configuration sets. defaults: {argument: value}. cameras: {stream name: CameraTable}. called: {argument:
    what it is called in a configuration}."""

    defaults: dict[str, Any]
    cameras: dict[str, CameraTable]
    called: dict[str, str]


def read_config(path: str | Path, parser: argparse.ArgumentParser, of_cameras: frozenset[str]) -> Config:
    """The configuration in a TOML file.

    parser: of the verb. of_cameras: names of the arguments that a camera may set for itself. Raises VlfError that
    names the line for whatever the command line would not take either, and for entries that nobody knows.
    """
    file = TomlFile(path, "configuration")
    reader = _Reader(file, parser)
    defaults = {
        dest: value
        for name, raw in file.values.items()
        if name != _CAMERAS
        for dest, value in [reader.value((name,), raw, reader.arguments)]
    }
    tables = file.values.get(_CAMERAS, {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise VlfError(f"{file.place(_CAMERAS)}: expected a table for each camera, such as [{_CAMERAS}.door]")
    cameras = {name: reader.camera(name, table, of_cameras) for name, table in tables.items()}
    return Config(defaults, cameras, {action.dest: name for name, action in reader.arguments.items()})


class _Reader:
    def __init__(self, file: TomlFile, parser: argparse.ArgumentParser):
        self._file = file
        self.arguments = {_called(a): a for a in parser._actions if a.dest not in _NEVER}

    def camera(self, name: str, table: dict[str, Any], allowed: frozenset[str]) -> CameraTable:
        place = self._file.place(_CAMERAS, name)
        source = table.get("source")
        number = isinstance(source, int) and not isinstance(source, bool) and 0 <= source < _HUGE
        if not number and not isinstance(source, str):
            raise VlfError(f'{place}: camera {name!r} needs a source, such as source = 0 or source = "/dev/video0"')
        known = {called: action for called, action in self.arguments.items() if action.dest in allowed}
        read = [self.value((_CAMERAS, name, key), raw, known) for key, raw in table.items() if key != "source"]
        return CameraTable(self._beside(str(source)), dict(read), place)

    def value(self, keys: tuple[str, ...], raw: Any, known: dict[str, argparse.Action]) -> tuple[str, Any]:
        """The argument that an entry sets, and its value."""
        name, place, called = keys[-1], self._file.place(*keys), keys[-1].replace("_", "-")
        action = known.get(called)
        if action is None:
            unknown = f"unknown entry {hidden(name)!r}"
            if called in self.arguments:
                unknown = f"{name} is for the whole run: it stands above the tables of the cameras"
            raise VlfError(f"{place}: {unknown}; known here: {', '.join(sorted(known))}")
        if action.nargs in ("+", "*"):
            if not isinstance(raw, list):
                raise VlfError(f"{place}: {name} is {_shown(raw)}; expected {_KINDS[list]}")
            return action.dest, [self._checked(place, name, one, action) for one in raw]
        return action.dest, self._checked(place, name, raw, action)

    def _checked(self, place: str, name: str, raw: Any, action: argparse.Action) -> Any:
        kind = bool if action.nargs == 0 else action.type if action.type in (int, float) else str
        fits = isinstance(raw, (int, float) if kind is float else kind) and isinstance(raw, bool) == (kind is bool)
        fits = fits and not (isinstance(raw, int) and abs(raw) >= _HUGE)
        if not fits:
            raise VlfError(f"{place}: {name} is {_shown(raw)}; expected {_KINDS[kind]}")
        about = getattr(action, "option", None)
        if about is not None and kind in (int, float) and not about.allows(raw):
            raise VlfError(f"{place}: {name} is {_shown(raw)}; expected {about.limits}")
        if action.choices is not None and raw not in action.choices:
            known = ", ".join(map(str, action.choices))
            raise VlfError(f"{place}: {name} is {_shown(raw)}; expected one of {known}")
        if kind is bool:
            return action.const if raw else not action.const
        if kind is float:
            return float(raw)
        if callable(action.type) and kind is str:
            try:
                raw = action.type(raw)
            except (ValueError, argparse.ArgumentTypeError) as error:
                raise VlfError(f"{place}: {name} is {_shown(raw)}: {error}") from None
        if action.metavar == "URL" and raw.startswith("@"):  # a file that holds a secret
            return "@" + self._beside(raw[1:])
        return self._beside(raw) if action.metavar in _FILES else raw

    def _beside(self, name: str) -> str:
        """A file as it is named beside the configuration; anything else, such as a URL or a camera, as it is."""
        other = "://" in name or " ! " in name or name.startswith("gst:") or name.isdigit()
        return name if other or Path(name).is_absolute() else str(self._file.path.parent / name)


def _shown(raw: Any) -> str:
    """A value as messages show it: a text that could be an address without its password, and nothing of what holds
    several."""
    if isinstance(raw, str):
        return repr(hidden(raw))
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, (int, float)):
        return str(raw) if isinstance(raw, float) or abs(raw) < _HUGE else "a huge number"
    return "a list" if isinstance(raw, list) else "a table" if isinstance(raw, dict) else "a date or a time"


def _called(action: argparse.Action) -> str:
    """What an argument is called in a file: its long flag, or its own name where it has none."""
    long = [flag[2:] for flag in action.option_strings if flag.startswith("--")]
    return long[0] if long else action.dest
