"""The classes that a model was trained for, beside labels that are enrolled: told apart by clips of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..datasets import open_dataset
from ..errors import SourceError, VlfError
from ..plan import Plan
from ..video.sources import open_source
from ..video.stretch import Stretch
from .clips import Progress
from .reading import Reader

_CLIPS_OF_A_CLASS = 8


@dataclass(frozen=True)
class KeptClip:
    """One clip of a class that stays. windows: (n, D + C), features and logits. label: number among the classes."""

    name: str
    label: int
    windows: np.ndarray


def read_kept(reader: Reader, plan: Plan, data: str, labels: Sequence[str], progress: Progress) -> list[KeptClip]:
    """Some clips of each class of the model, of rendered ones those for validation: what a model was trained on, it
    knows too well. data: see ``open_dataset``; its classes must be the model's.

    labels: those enrolled. Raises VlfError if one of them is a class too, SourceError if no clip gives a window.
    """
    manifest = plan.manifest
    both = sorted({*labels} & {*manifest.classes})
    if both:
        raise VlfError(f"{both[0]!r} is a class that --keep keeps, and a label to enrol: choose another label for it")
    split = "val" if data == "motion" else "all"
    dataset = open_dataset(
        data,
        split,
        sampling=manifest.sampling,
        preprocess=manifest.preprocess,
        frames=manifest.sampling.frames,
        labels=manifest.classes,
        limit=_CLIPS_OF_A_CLASS * len(manifest.classes),
    )
    found = []
    for done, clip in enumerate(dataset.clips):
        progress("read clips of kept classes", done, len(dataset.clips))
        reading = reader.read(Stretch(open_source(clip.name), clip.start_s, clip.end_s), mirror=False)
        if len(reading.windows):
            found.append(KeptClip(clip.name, int(clip.label), reading.windows))
    progress("read clips of kept classes", len(dataset.clips), len(dataset.clips))
    if not found:
        raise SourceError(f"no clip of {data} gives a window, which takes {reader.least_s:.2f} s")
    return found
