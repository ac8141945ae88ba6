"""TOML files that people write: read with the lines that things are on, so that a message can name one."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import BackendMissing, VlfError

_HEADER = re.compile(r"\s*\[+\s*(?P<keys>[^\]#]+?)\s*\]")
_ENTRY = re.compile(r"\s*(?P<keys>[^=#\[\]{}]+?)\s*=")


class TomlFile:
    """A TOML file: ``values``, and where each of them stands.

    what: what the file is to the user, such as "recipe", for messages. Raises VlfError if it cannot be read, and
    BackendMissing on a Python 3.10 without tomli.
    """

    def __init__(self, path: str | Path, what: str):
        self.path = Path(path)
        reader = _reader()
        try:
            self._text = self.path.read_text(encoding="utf-8")
            self.values: dict[str, Any] = reader.loads(self._text)
        except (OSError, ValueError, RecursionError) as error:
            why = getattr(error, "strerror", None) or error
            raise VlfError(f"cannot read the {what} {path}: {why}") from None

    def place(self, *keys: str) -> str:
        """Where an entry stands, as messages begin: "cameras.toml, line 12"; without the line if it is not found.

        keys: the tables around it, outermost first, and its own name.
        """
        return f"{self.path}" if (line := self._line_of(keys)) is None else f"{self.path}, line {line}"

    def _line_of(self, keys: tuple[str, ...]) -> int | None:
        table: tuple[str, ...] = ()
        found = None
        for number, line in enumerate(self._text.splitlines(), 1):
            if header := _HEADER.match(line):
                table = here = _parts(header["keys"])
            elif entry := _ENTRY.match(line):
                here = (*table, *_parts(entry["keys"]))
            else:
                continue
            if here == keys:
                return number
            if here == keys[: len(here)]:  # a table within one line, or the table that the entry is in
                found = number
        return found


def _parts(keys: str) -> tuple[str, ...]:
    """A dotted key as its parts: a."b.c" -> a, b.c."""
    return tuple(part.strip("\"' \t") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[^.]+", keys))


def _reader() -> ModuleType:
    for name in ("tomllib", "tomli"):  # Python 3.10 has no tomllib
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise BackendMissing("TOML files need tomli on Python 3.10, not installed here: pip install 'tomli>=2'")
