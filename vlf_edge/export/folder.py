"""Folders that are complete or not there at all, and that know what was put into them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import signals
from ..errors import PlanError, VlfError
from ..scratch import partial_folder

RECORD = "vlf.json"
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Folder:
    """What is to be written.

    files: relative path -> a function that gives the file's bytes, called once, when it is written: engines are big.
    about: plain JSON values for vlf.json, to which the files' sizes and hashes are added.
    """

    files: Mapping[str, Callable[[], bytes]]
    about: Mapping[str, Any]


def safe_name(name: str) -> str:
    """``name``, fit to be part of a path. Plans come from strangers: raises PlanError for anything else."""
    if not _SAFE_NAME.fullmatch(name):
        raise PlanError(f"{name!r} cannot name a file; expected letters, digits, '.', '_' and '-', 100 at most")
    return name


def check_place(path: str | os.PathLike[str]) -> None:
    """Raises VlfError unless ``path`` is free, an empty folder, or an earlier export in which nothing was changed."""
    path = Path(path)
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise VlfError(f"cannot export to {path}: it is a file; name a folder")
    try:
        why = _what_is_not_ours(path)
    except OSError as error:
        raise VlfError(f"cannot export to {path}: {error.strerror} ({error.filename})") from None
    if why:
        raise VlfError(f"cannot export to {path}: {why}; name a new folder, or remove this one first")


def write_folder(path: str | os.PathLike[str], folder: Folder) -> list[Path]:
    """Writes all files and vlf.json, or nothing. Returns their paths, sorted.

    An earlier export in its place is replaced. Raises VlfError if something else is there or it cannot be written.
    """
    check_place(path)
    place = Path(os.path.realpath(path))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with partial_folder(place.parent) as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            _fill(new, folder)
            with signals.unbroken():
                _exchange(place, new, old)
    except OSError as error:
        raise VlfError(f"cannot export to {path}: {error.strerror}") from None
    return sorted(Path(path, name) for name in (*folder.files, RECORD))


def _fill(new: Path, folder: Folder) -> None:
    entries = {}
    for name, read in folder.files.items():
        data = read()
        entries[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).write_bytes(data)
    record = json.dumps({**folder.about, "files": entries}, indent=1, ensure_ascii=False, allow_nan=False)
    (new / RECORD).write_text(record + "\n", encoding="utf-8")


def _exchange(place: Path, new: Path, old: Path) -> None:
    if not place.exists():
        os.rename(new, place)
        return
    os.rename(place, old)
    try:
        os.rename(new, place)
    except BaseException:
        os.rename(old, place)
        raise


def _what_is_not_ours(path: Path) -> str:
    """The first thing in a folder that an export did not put there, in words; "" if there is none."""
    if not any(path.iterdir()):
        return ""
    entries = [Path(top, name) for top, folders, files in os.walk(path, onerror=_raise) for name in (*folders, *files)]
    found = {entry.relative_to(path).as_posix(): entry for entry in entries if entry.is_symlink() or not entry.is_dir()}
    if RECORD not in found:
        return f"it is not empty and was not exported by vlf-edge (there is no {RECORD} in it)"
    try:
        hashes = {name: entry["sha256"] for name, entry in json.loads(found.pop(RECORD).read_bytes())["files"].items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"its {RECORD} is not one that vlf-edge wrote"
    for name, entry in sorted(found.items()):
        if name not in hashes or not entry.is_file():
            return f"it holds {name}, which vlf-edge did not put there"
        if hashlib.sha256(entry.read_bytes()).hexdigest() != hashes[name]:
            return f"{name} in it was changed since it was exported"
    return ""


def _raise(error: OSError) -> None:
    raise error
