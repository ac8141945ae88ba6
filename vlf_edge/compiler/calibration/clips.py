"""Which clips calibrate and which are held out, and what is known about each.

All of it is decided before one is decoded, by names and by which files are copies of which.

A clip's label is known if it comes from ``motion``, from an annotation file, or from a folder named after a label of
the model (``my-clips/wave/0001.mp4``). Everything else is a clip without a label, which calibrates just as well.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ...errors import CalibrationError
from ...types import Preprocess, Sampling
from ...video.sampler import segment_centres
from ...video.sources import expand_clips, hidden
from ..recipe import MOTION

if TYPE_CHECKING:
    from ...datasets import ClipDataset

UNLABELLED = -1
_ANNOTATION_SUFFIXES = (".csv", ".json")
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class NamedClip:
    """A clip to read: anything ``open_source`` opens, from start_s to end_s (None: to its end), in seconds.

    label: index into the model's labels, or UNLABELLED. held_out: True if it is to measure on, False if it is to
    calibrate on, None if that depends on its length.
    """

    name: str
    label: int = UNLABELLED
    start_s: float = 0.0
    end_s: float | None = None
    held_out: bool | None = None


def list_clips(
    what: Sequence[str | Path],
    labels: Sequence[str],
    sampling: Sampling,
    preprocess: Preprocess,
    *,
    calibrating: int,
    held_out: int,
) -> list[NamedClip]:
    """The clips behind ``what``: files, folders, globs, annotation files, test://motion and the word "motion".

    labels: of the model; () if they mean nothing. calibrating, held_out: windows wanted of each kind; of labelled
    clips no more are listed, evenly of all classes. Raises CalibrationError, SourceError.
    """
    clips: list[NamedClip] = []
    for item in map(str, what):
        if item == MOTION or item.lower().endswith(_ANNOTATION_SUFFIXES):
            # Rendered clips to calibrate on are a split of their own: those to train on are drawn anew every time.
            first = "calibration" if item == MOTION else "train"
            for split, out, limit in ((first, False, calibrating), ("val", True, held_out)):
                data = _open_dataset(item, split, sampling, preprocess, limit)
                clips += _labelled(data, item, labels, out)
        else:
            clips += [NamedClip(name, _label_of_folder(name, labels)) for name in expand_clips(item)]
    clips = _halve_classes(_without_copies(clips))
    fits = {False: calibrating, True: held_out}
    for out, most in fits.items():
        sure = [clip for clip in clips if clip.held_out is out]
        chosen = set(spread(sure, [clip.label for clip in sure], most))
        clips = [clip for clip in clips if clip.held_out is not out or clip in chosen]
    return clips


def _without_copies(clips: Sequence[NamedClip]) -> list[NamedClip]:
    """Each stretch of a video once, whatever its files are called: a copy must neither count twice nor be held out from
    its original. Kept is the one that says which it is, calibrating before held out, then one of known class.

    Raises CalibrationError for copies of different classes.
    """
    same: dict[tuple[str, float, float | None], list[NamedClip]] = {}
    contents = _contents([clip.name for clip in clips])
    for clip in clips:
        same.setdefault((contents[clip.name], clip.start_s, clip.end_s), []).append(clip)
    kept = []
    for copies in same.values():
        known = {clip.label: clip for clip in copies if clip.label != UNLABELLED}
        if len(known) > 1:
            one, other = list(known.values())[:2]
            raise CalibrationError(
                f"{hidden(one.name)} and {hidden(other.name)} are the same clip and are said to be of different "
                "classes; expected one class a clip: remove the wrong one"
            )
        kept.append(min(copies, key=lambda c: ((False, True, None).index(c.held_out), c.label == UNLABELLED)))
    return kept


def _contents(names: Sequence[str]) -> dict[str, str]:
    """{name: what it stands for}: equal for files with equal bytes. Only files of equal size are read."""
    files = {name: Path(name).stat().st_size for name in dict.fromkeys(names) if Path(name).is_file()}
    sizes = Counter(files.values())
    found = {name: name for name in names}
    for name, size in files.items():
        if sizes[size] > 1:
            digest = hashlib.sha256()
            with open(name, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            found[name] = digest.hexdigest()
    return found


def spread(items: Sequence[_Item], labels: Sequence[int], count: int) -> list[_Item]:
    """``count`` of the items, evenly chosen, in their order: half of them of known class where there are both, and of
    these equally many of each class, as far as there are."""
    classes: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        classes.setdefault(label, []).append(index)
    unknown = classes.pop(UNLABELLED, [])
    known = sum(map(len, classes.values()))
    of_known, of_unknown = _quotas([known, len(unknown)], count)
    groups = [unknown, *classes.values()]
    quotas = [of_unknown, *_quotas([len(group) for group in classes.values()], of_known)]
    chosen = [group[i] for group, quota in zip(groups, quotas) for i in segment_centres(len(group), quota)]
    return [items[i] for i in sorted(chosen)]


def _quotas(sizes: Sequence[int], count: int) -> list[int]:
    """How many to take of each group so that all give equally many, and none more than it has."""
    quotas, left = [0] * len(sizes), min(count, sum(sizes))
    while left:
        for i, size in enumerate(sizes):
            if left and quotas[i] < size:
                quotas[i] += 1
                left -= 1
    return quotas


def _open_dataset(data: str, split: str, sampling: Sampling, preprocess: Preprocess, limit: int) -> ClipDataset:
    from ...datasets import open_dataset

    return open_dataset(
        data,
        split,
        sampling=sampling,
        preprocess=preprocess,
        frames=sampling.frames,
        span_s=sampling.span_s,
        limit=limit if data == MOTION else None,
    )


def _labelled(data: ClipDataset, item: str, labels: Sequence[str], held_out: bool) -> list[NamedClip]:
    """The clips of a data set, with its labels found again among the model's."""
    known = {name: labels.index(name) for name in data.labels if name in labels}
    strange = [name for name in data.labels if name not in known]
    if labels and strange and item != MOTION:
        raise CalibrationError(
            f"{item} has {len(strange)} of {len(data.labels)} classes that the model lacks, such as {strange[0]!r}; "
            f"the model's labels begin with {', '.join(labels[:3])}: give clips of its own classes, or a folder"
        )
    indices = [known.get(name, UNLABELLED) for name in data.labels]
    return [
        NamedClip(
            clip.name, UNLABELLED if clip.label is None else indices[clip.label], clip.start_s, clip.end_s, held_out
        )
        for clip in data.clips
    ]


def _label_of_folder(name: str, labels: Sequence[str]) -> int:
    folder = Path(name).parent.name
    return labels.index(folder) if "://" not in name and folder in labels else UNLABELLED


def _halve_classes(clips: Sequence[NamedClip]) -> list[NamedClip]:
    """Every second clip of a class that has several is held out, so that every class is measured."""
    sizes: dict[int, int] = {}
    for clip in clips:
        if clip.label != UNLABELLED and clip.held_out is None:
            sizes[clip.label] = sizes.get(clip.label, 0) + 1
    seen = dict.fromkeys(sizes, 0)
    decided = []
    for clip in clips:
        if clip.held_out is None and sizes.get(clip.label, 0) > 1:
            seen[clip.label] += 1
            clip = replace(clip, held_out=seen[clip.label] % 2 == 0)
        decided.append(clip)
    return decided
