"""The clips that a plan is taught with: which files they are, read once each, and those that can teach nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..datasets.augment import find_mirrors
from ..errors import SourceError, VlfError
from ..head import UNKNOWN
from ..video.motion_energy import STILL
from ..video.sources import expand_clips
from .reading import Reader, Reading

log = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]
Clips = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class TaughtClip:
    """A clip that was read. label: what it shows; UNKNOWN: nothing of what is taught."""

    name: str
    label: str
    reading: Reading

    @property
    def windows(self) -> np.ndarray:
        """(n, D): all its windows, those of its mirror image after its own."""
        parts = [part for part in (self.reading.windows, self.reading.mirrored) if len(part)]
        return np.concatenate(parts)


def list_clips(label: str, what: Clips) -> list[str]:
    """The videos behind a file, a folder, a glob or several of them. Raises SourceError if there are none."""
    given = [what] if isinstance(what, (str, os.PathLike)) else list(what)
    names = []
    for one in map(os.fspath, given):
        found = expand_clips(one)
        if not Path(one).exists() and found == [one] and "://" not in one:
            raise SourceError(f"no clips of {label!r} at {one}: there is no such file or folder")
        if found == [one] and Path(one).is_dir():
            raise SourceError(
                f"no clips of {label!r} in {one}: it holds no videos; vlf-edge capture 0 -o {one} records some"
            )
        names += found
    if not names:
        raise SourceError(f"no clips of {label!r} were given; name a folder of videos")
    return names


def check_labels(labels: Sequence[str]) -> None:
    """Raises VlfError for labels that cannot be taught."""
    for label in labels:
        if not label.strip() or not label.isprintable():
            raise VlfError(f"a label is {label!r}; expected a name, as in wave=clips/wave/")
        if label == UNKNOWN:
            raise VlfError(
                f"{UNKNOWN!r} is what a plan says of what it was not taught: give such clips with --none, or choose "
                "another label"
            )
    if not labels:
        raise VlfError(
            "there is nothing to enrol: name labels and their clips, as in wave=clips/wave/ stop=clips/stop/"
        )


def mirrored_labels(labels: Sequence[str], others: Sequence[str]) -> set[str]:
    """Those of ``labels`` and UNKNOWN that a mirror image leaves as they are: those that speak of no side.

    others: what else the plan decides between. Clips of nothing may be mirrored unless a label speaks of one side
    alone: its mirror image is nothing, and nothing's mirror image may be it.
    """
    same = {label for label in labels if find_mirrors([label]) == {}}
    return same if find_mirrors(sorted({*labels, *others})) is None else same | {UNKNOWN}


def read_clips(
    reader: Reader, wanted: Mapping[str, Sequence[str]], mirrored: set[str], still: bool, progress: Progress
) -> list[TaughtClip]:
    """Reads all clips. wanted: {label: names}. mirrored: labels whose mirror images are read too. still: whether clips
    are also read as if nothing moved.

    What is too short for a window, or shows nothing that moves, is named in the log and left out. Raises SourceError
    for a clip that cannot be read, VlfError if nothing is left of a label.
    """
    total, done = sum(map(len, wanted.values())), 0
    taught: list[TaughtClip] = []
    for label, names in wanted.items():
        useless: dict[str, str] = {}
        kept = []
        for name in names:
            progress("read clips", done, total)
            reading = reader.read(name, mirror=label in mirrored, still=still and label != UNKNOWN)
            done += 1
            why = why_useless(label, reading, reader.least_s)
            if why:
                useless[name] = why
            else:
                kept.append(TaughtClip(name, label, reading))
        _tell(label, kept, useless)
        taught += kept
    progress("read clips", total, total)
    return taught


def why_useless(label: str, reading: Reading, least_s: float) -> str:
    """Why a clip can teach a label nothing; empty if it can."""
    if len(reading.windows) == 0:
        return f"it has {reading.seconds:.2f} s without a gap, and one window takes {least_s:.2f} s"
    if label != UNKNOWN and reading.moved < STILL:
        return f"nothing moves in it: no more than {reading.moved:.1f} of 255 from frame to frame"
    return ""


def _tell(label: str, kept: Sequence[TaughtClip], useless: Mapping[str, str]) -> None:
    shown = "; ".join(f"{name}: {why}" for name, why in list(useless.items())[:_NAMES_SHOWN])
    more = f" and {len(useless) - _NAMES_SHOWN} more" if len(useless) > _NAMES_SHOWN else ""
    if not kept:
        raise VlfError(f"none of the {len(useless)} clip(s) of {label!r} can teach it: {shown}{more}; record others")
    if useless:
        log.warning("%d clip(s) of %r are left out: %s%s", len(useless), label, shown, more)
    if len(kept) == 1 and label != UNKNOWN:
        log.warning("%r has one clip: nothing tells how well it will be known; five or more are better", label)
