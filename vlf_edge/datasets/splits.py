"""Which of the annotated clips a split is made of, and whether its classes are those they should be.

Data that says which clips are for validation is taken at its word. Where nothing says so, the training clips are
divided: of each class a fifth of its files, at least one if it has two or more, chosen by a hash of their paths under
the data's folder. The choice is the same on every machine and in every run, and all stretches of one file stay on one
side. Nothing is divided where training and validation data were named apart.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..errors import SourceError, VlfError
from .annotations import Annotations, Row, few

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test", "all")
_HELD_OUT_SHARE = 0.2


def check_labels(annotations: Annotations, expected: Sequence[str] | None) -> tuple[str, ...]:
    """The class names in the order to use: ``expected``, a model's, or else the annotation's own.

    Raises VlfError naming the classes in which the two differ.
    """
    if expected is None:
        return annotations.labels
    missing = [label for label in expected if label not in annotations.labels]
    unexpected = [label for label in annotations.labels if label not in expected]
    if unexpected or (missing and not annotations.long_tailed):
        raise VlfError(
            f"the classes of {annotations.root} are not the model's {len(expected)}: "
            + "; ".join(
                f"{what}: {few(names)}" for what, names in (("missing", missing), ("unexpected", unexpected)) if names
            )
            + ". Take the model's own data, or train a model on this"
        )
    return tuple(expected)


def choose_rows(annotations: Annotations, split: str, limit: int | None = None, *, apart: bool = False) -> list[Row]:
    """The rows of "train", "val", "test" or "all", in the annotation's order.

    limit: at most so many, evenly from all classes. apart: see ``divide``. Raises SourceError if there are none,
    VlfError naming the classes that are left without a clip.
    """
    parts = divide(annotations, apart=apart)
    rows = parts[split]
    if not rows:
        have = ", ".join(f"{len(part)} for {name}" for name, part in parts.items() if part)
        raise SourceError(
            f"{annotations.root} has no clips for {split}; it has {have}. Add some, or say which are for {split}: in "
            "folders, by a list of that name or in a CSV column split"
        )
    if annotations.missing:
        log.warning(
            "%d files that the annotation names are not there and are left out: %s",
            len(annotations.missing),
            few(annotations.missing),
        )
    _check_classes(annotations, split, rows)
    return rows if limit is None else _evenly(rows, annotations.root, limit)


def divide(annotations: Annotations, *, apart: bool = False) -> dict[str, list[Row]]:
    """{"train", "val", "test", "all": rows}; any of the first three may be empty.

    apart: training and validation data were named apart. Nothing is held out of either then: where nothing is said to
    be for validation, all is.
    """
    parts: dict[str, list[Row]] = {"train": [], "val": [], "test": [], "all": list(annotations.rows)}
    for row in annotations.rows:
        parts[row.split or "train"].append(row)
    if not parts["val"] and apart:
        parts["val"] = parts["all"]
    elif not parts["val"]:
        held_out = _hold_out(parts["train"], annotations.root)
        parts["val"] = [row for row in parts["train"] if row.path in held_out]
        parts["train"] = [row for row in parts["train"] if row.path not in held_out]
    parts["test"] = parts["test"] or parts["val"]
    return parts


def _hold_out(rows: Sequence[Row], root: Path) -> set[Path]:
    files: dict[str, list[Path]] = defaultdict(list)
    for path, label in sorted({(row.path, row.label) for row in rows}, key=lambda pair: _digest(pair[0], root)):
        files[label].append(path)
    # A file may show several classes; each class keeps its first for training whatever the others want.
    kept = {paths[0] for paths in files.values()}
    held_out: set[Path] = set()
    for label in sorted(files):
        wanted = max(1, round(_HELD_OUT_SHARE * len(files[label]))) - sum(path in held_out for path in files[label])
        free = [path for path in files[label] if path not in kept and path not in held_out]
        held_out.update(free[: max(0, wanted)])
    return held_out


def _digest(path: Path, root: Path) -> bytes:
    name = str(path).removeprefix(f"{root}{os.sep}")
    return hashlib.sha256(os.fsencode(name)).digest()


def _check_classes(annotations: Annotations, split: str, rows: Sequence[Row]) -> None:
    present = {row.label for row in rows}
    absent = [label for label in annotations.labels if label not in present]
    if not absent:
        return
    message = f"{len(absent)} of {len(annotations.labels)} classes have no clip for {split}: {few(absent)}"
    if annotations.long_tailed and split != "train":
        log.warning("%s; nothing is said about them", message)
        return
    missing = f" ({len(annotations.missing)} files are not there: {few(annotations.missing)})"
    raise VlfError(
        f"{message}{missing if annotations.missing else ''}; every class needs at least one, and two if {split} is not "
        "listed apart: add clips, or take the class out"
    )


def _evenly(rows: list[Row], root: Path, limit: int) -> list[Row]:
    """One of each class, then a second of each, ..., up to ``limit``; which ones, the hash decides."""
    of_class: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(rows)), key=lambda i: (_digest(rows[i].path, root), rows[i].start_s)):
        of_class[rows[index].label].append(index)
    ranked = [(rank, label, index) for label, indices in of_class.items() for rank, index in enumerate(indices)]
    return [rows[index] for index in sorted(index for _, _, index in sorted(ranked)[:limit])]
