"""What users have on disk -> rows of (file, label, stretch, split). Formats are told apart by their content.

A folder
    ``class/clip.mp4``, or ``train/class/clip.mp4`` with ``val/class/clip.mp4`` and perhaps ``test/class/clip.mp4``.
    Clips may lie deeper inside a class. Names that begin with a dot are not looked at.
A CSV file
    ``path,label[,start_s,end_s][,split]``, with these names as its first line or without. Paths are relative to the
    file; seconds are on the video's own clock; split is train, val or test.
Something-Something v2
    The JSON list of {"id", "template", ...}; classes are the templates without brackets, in the order of the labels
    file beside it (a name that ends in ``labels.json``) or else sorted. Videos, ``<id>.webm`` or ``<id>.mp4``, lie in
    the list's folder or anywhere under it.
EPIC-KITCHENS-100
    ``EPIC_100_train.csv``; classes are those of ``verb_class``, named by ``EPIC_100_verb_classes.csv`` beside it or
    else by the verb most often used for each. Videos, ``<video_id>.MP4``, lie in the list's folder or anywhere under
    it.

A file whose name holds train, val, validation or test is one of several lists: those beside it that differ in this word
alone are read too. Alone, a list for training is one that nobody has split yet.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import SourceError, VlfError
from ..printable import printable
from ..video.sources import VIDEO_SUFFIXES

ACCEPTED = (
    "motion (rendered clips), a folder of class/clip.mp4 or of train/class/clip.mp4 and val/class/clip.mp4, a CSV file "
    "of path,label[,start_s,end_s][,split], the JSON list of Something-Something v2, or the CSV file of "
    "EPIC-KITCHENS-100"
)
_SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
_SPLIT_IN_NAME = re.compile(rf"(?<![a-z])({'|'.join(sorted(_SPLIT_WORDS, key=len, reverse=True))})(?![a-z])", re.I)
_EPIC_COLUMNS = ("participant_id", "video_id", "start_timestamp", "stop_timestamp", "verb", "verb_class")
_CSV_COLUMNS = ("path", "label", "start_s", "end_s", "split")


@dataclass(frozen=True)
class Row:
    """One labelled stretch of a video file. end_s None: to the end. split: "train", "val", "test", or None if the
    annotation does not say."""

    path: Path
    label: str
    start_s: float = 0.0
    end_s: float | None = None
    split: str | None = None


@dataclass(frozen=True)
class Annotations:
    """All that an annotation says.

    root: the folder that paths are relative to. labels: class names in the annotation's own order. rows: those whose
    file is there. missing: the files that are not. long_tailed: rare classes are known to be absent from some splits.
    """

    root: Path
    labels: tuple[str, ...]
    rows: tuple[Row, ...]
    missing: tuple[str, ...] = ()
    long_tailed: bool = False


def read_annotations(data: str | os.PathLike[str]) -> Annotations:
    """Reads a folder or an annotation file in any of the formats above, all its splits.

    Raises SourceError if there is nothing to read, VlfError naming the line if an annotation is wrong.
    """
    path = Path(data)
    try:
        if path.is_dir():
            return _read_folder(path)
        if not path.is_file():
            raise SourceError(f"no data at {path}; accepted: {ACCEPTED}")
        return _read_lists(path)
    except OSError as error:
        raise SourceError(f"cannot read {error.filename or path}: {error.strerror}") from None


def _read_folder(root: Path) -> Annotations:
    folders = _folders(root)
    splits = {folder: _SPLIT_WORDS.get(folder.name.lower()) for folder in folders}
    if not all(splits.values()) or not any(_folders(folder) for folder in folders):
        splits = {root: None}
    classes = [
        (folder, _checked_label(folder.name, folder), split)
        for top, split in splits.items()
        for folder in _folders(top)
    ]
    rows = tuple(Row(path, label, split=split) for folder, label, split in classes for path in _videos(folder))
    if not rows:
        raise SourceError(f"{root} holds no folder of videos ({' '.join(VIDEO_SUFFIXES)}); accepted: {ACCEPTED}")
    return Annotations(root, _sorted_labels(label for _, label, _ in classes), rows)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _videos(folder: Path) -> list[Path]:
    """All videos in a folder, at any depth, shallow ones first."""
    found = [
        os.path.join(top, name)
        for top, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(VIDEO_SUFFIXES) and not name.startswith(".")
    ]
    return [Path(name) for name in sorted(found, key=lambda name: (name.count(os.sep), name))]


def _read_lists(path: Path) -> Annotations:
    """The list that the user named, and those beside it for other splits."""
    found = _parse_lists(path)
    if not found.rows and not found.missing:
        raise SourceError(f"{path} lists no clips; accepted: {ACCEPTED}")
    return found


def _parse_lists(path: Path) -> Annotations:
    lists = {split: (file, _read_text(file)) for split, file in _siblings(path).items()}
    if _read_text(path).lstrip()[:1] in ("[", "{"):
        return _read_something(path.parent, lists)
    tables = {split: (file, _parse_csv(file, text)) for split, (file, text) in lists.items()}
    if all(set(_EPIC_COLUMNS) <= set(table[0][1]) for _, table in tables.values()):
        return _read_epic(path.parent, tables)
    rows = [row for split, (file, table) in tables.items() for row in _csv_rows(file, table, split)]
    return _present(path.parent, _sorted_labels(row.label for row in rows), rows)


def _siblings(path: Path) -> dict[str | None, Path]:
    """{split: file} of a list that is one of several, itself included; {None: path} of one that nobody has split."""
    words = list(_SPLIT_IN_NAME.finditer(path.stem))
    if not words:
        return {None: path}
    start, end = words[-1].span()
    found: dict[str | None, Path] = {_SPLIT_WORDS[words[-1].group().lower()]: path}
    for word, split in _SPLIT_WORDS.items():
        other = path.with_name(f"{path.stem[:start]}{word}{path.stem[end:]}{path.suffix}")
        if split not in found and other.is_file():
            found[split] = other
    return {None: path} if list(found) == ["train"] else found


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or not text.strip():
        raise VlfError(f"{path} is {'empty' if not text.strip() else 'no UTF-8 text'}; accepted: {ACCEPTED}")
    return text


def _parse_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VlfError(f"{path} begins like JSON but is not ({error})") from None


def _read_something(root: Path, lists: dict[str | None, tuple[Path, str]]) -> Annotations:
    videos = _index(root)
    rows = []
    for split, (file, text) in lists.items():
        entries = _parse_json(file, text)
        if not isinstance(entries, list) or not all(isinstance(e, dict) and "id" in e for e in entries):
            raise VlfError(f'{file} is JSON but no list of {{"id": ..., "template": ...}}; accepted: {ACCEPTED}')
        # The public test list has no templates: it cannot be trained or judged on.
        if split == "test" and not any("template" in entry for entry in entries):
            continue
        for number, entry in enumerate(entries, 1):
            where = f"{file}, entry {number} (id {entry['id']})"
            if not isinstance(entry.get("template"), str):
                raise VlfError(f"{where} has no template, which is its class")
            label = _checked_label(re.sub(r"[\[\]]", "", entry["template"]), where)
            rows.append(Row(videos.get(str(entry["id"]), root / f"{entry['id']}.webm"), label, split=split))
    return _present(root, _something_labels(root, {row.label for row in rows}), rows)


def _something_labels(root: Path, used: set[str]) -> tuple[str, ...]:
    """Class names by their number in the labels file, if there is one."""
    files = sorted(root.glob("*labels.json"))
    if not files:
        return _sorted_labels(used)
    numbers = _parse_json(files[0], _read_text(files[0]))
    try:
        labels = tuple(sorted(numbers, key=lambda label: int(numbers[label])))
    except (TypeError, ValueError, KeyError, OverflowError):  # the last: of an infinite number
        raise VlfError(f'{files[0]} is no labels file: expected {{"class": "number", ...}}') from None
    if unknown := sorted(used - set(labels)):
        raise VlfError(f"{files[0]} does not list the classes {few(unknown)}, which the annotation uses")
    return labels


def _parse_csv(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """(line number, cells) of each line that is not blank."""
    reader = csv.reader(io.StringIO(text), skipinitialspace=True)
    try:
        table = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise VlfError(f"{path}, line {reader.line_num}: {error}; accepted: {ACCEPTED}") from None
    if not table:
        raise VlfError(f"{path} holds nothing but commas; accepted: {ACCEPTED}")
    if len(table[0][1]) < 2:
        raise VlfError(f"{path} is no annotation file: its first line has no comma; accepted: {ACCEPTED}")
    return table


def _csv_rows(path: Path, table: list[tuple[int, list[str]]], split: str | None) -> list[Row]:
    header = [cell.lower() for cell in table[0][1]]
    named = "path" in header and "label" in header
    rows = []
    for number, cells in table[1:] if named else table:
        where = f"{path}, line {number}"
        # Without names, four cells are path, label and times, three are path, label and split.
        columns = header if named else _CSV_COLUMNS if len(cells) != 3 else ("path", "label", "split")
        if not 2 <= len(cells) <= len(columns):
            raise VlfError(f"{where} has {len(cells)} cells; expected path,label[,start_s,end_s][,split]")
        values = dict(zip(columns, cells))
        word = values.get("split", "").lower()
        if word and word not in _SPLIT_WORDS:
            raise VlfError(f"{where}: split {word!r}, expected train, val or test")
        if not values.get("path"):
            raise VlfError(f"{where} names no file")
        start_s, end_s = _stretch(values.get("start_s", ""), values.get("end_s", ""), where)
        label = _checked_label(values.get("label", ""), where)
        rows.append(Row(path.parent / values["path"], label, start_s, end_s, _SPLIT_WORDS.get(word, split)))
    return rows


def _read_epic(root: Path, tables: dict[str | None, tuple[Path, list[tuple[int, list[str]]]]]) -> Annotations:
    videos = _index(root)
    rows: list[Row] = []
    verbs: dict[int, Counter[str]] = {}
    for split, (file, ((_, header), *lines)) in tables.items():
        for number, cells in lines:
            where, values = f"{file}, line {number}", dict(zip(header, cells))
            if any(not values.get(column) for column in _EPIC_COLUMNS) or not _is_number(values["verb_class"]):
                raise VlfError(f"{where}: expected a value for {', '.join(_EPIC_COLUMNS)}, the last a number")
            start_s, end_s = _stretch(values["start_timestamp"], values["stop_timestamp"], where)
            video = videos.get(values["video_id"], root / f"{values['video_id']}.MP4")
            verbs.setdefault(int(values["verb_class"]), Counter())[values["verb"]] += 1
            rows.append(Row(video, str(int(values["verb_class"])), start_s, end_s, split))
    names = _epic_names(root, verbs)
    rows = [replace(row, label=names[int(row.label)]) for row in rows]
    return replace(_present(root, tuple(names.values()), rows), long_tailed=True)


def _epic_names(folder: Path, verbs: dict[int, Counter[str]]) -> dict[int, str]:
    """A name for each verb class: as published if the list of them is there, else its most frequent verb."""
    published = {}
    for file in sorted(folder.glob("*verb_classes.csv"))[:1]:
        published = {cells[0]: cells[1] for _, cells in _parse_csv(file, _read_text(file)) if len(cells) > 1}
    names = {}
    for number, counts in sorted(verbs.items()):
        name = published.get(str(number)) or min(counts, key=lambda verb: (-counts[verb], verb))
        name = _checked_label(name, f"verb class {number}")
        names[number] = f"{name} ({number})" if name in names.values() else name
    return names


def _stretch(start: str, end: str, where: str) -> tuple[float, float | None]:
    start_s = _seconds(start, where) if start else 0.0
    end_s = _seconds(end, where) if end else None
    if end_s is not None and end_s <= start_s:
        raise VlfError(f"{where}: the clip ends at {end_s:g} s but starts at {start_s:g} s")
    return start_s, end_s


def _seconds(text: str, where: str) -> float:
    """Seconds, or hours:minutes:seconds."""
    try:
        seconds = sum(float(part) * 60**i for i, part in enumerate(reversed(text.split(":"))))
    except (ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise VlfError(f"{where}: {text!r} is no time; expected seconds or hours:minutes:seconds")
    return seconds


def _index(root: Path) -> dict[str, Path]:
    """{name without ending: file} of all videos under a folder; of equal names the one least deep."""
    return {path.stem: path for path in reversed(_videos(root))}


def _present(root: Path, labels: tuple[str, ...], rows: Sequence[Row]) -> Annotations:
    is_there = {path: path.is_file() for path in {row.path for row in rows}}
    missing = tuple(str(path) for path, there in is_there.items() if not there)
    if missing and len(missing) == len(is_there):
        raise SourceError(f"no video that the annotation names is there; looked for {few(sorted(missing))}")
    return Annotations(root, labels, tuple(row for row in rows if is_there[row.path]), tuple(sorted(missing)))


def _checked_label(label: str, where: object) -> str:
    if not label.strip() or not label.isprintable():
        raise VlfError(f"{where}: {label!r} is no class name; expected printable text")
    return label.strip()


def _sorted_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Sorted, and as numbers where all are: class 10 comes after class 9."""
    unique = set(labels)
    return tuple(sorted(unique, key=int) if all(map(_is_number, unique)) else sorted(unique))


def _is_number(text: str) -> bool:
    """True for digits, but not for more of them than any class number has: Python refuses to read thousands."""
    return text.isdecimal() and len(text) < 20


def few(names: Sequence[str], count: int = 5) -> str:
    """The first few of many names, fit to be shown."""
    return ", ".join(map(printable, names[:count])) + (f" and {len(names) - count} more" if len(names) > count else "")
