"""The clips of a data set as a camera would show them: through the streaming pipeline, window after window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import SourceError
from ..runtime.runtime import Runtime
from ..video.sources import open_source
from ..video.stretch import Stretch
from .scores import Progress, Scores, clip_name

if TYPE_CHECKING:
    from ..datasets import Clip, ClipDataset


def play(
    runtime: Runtime, dataset: ClipDataset, indices: Sequence[int], *, progress: Progress | None = None
) -> tuple[Scores, list[str], int]:
    """Streams these clips, each from a fresh window; a clip's decision is the mean of its windows' probabilities.

    Returns the Scores (their logits are logarithms of the mean probabilities), the names of the clips too short for
    even one window, and the number of windows. progress: called with ("live clips", done, total). Broken clips are left
    out and named. Raises ValueError unless the data set's labels are the runtime's.
    """
    order = [runtime.labels.index(label) for label in dataset.labels]
    clips = dataset.clips
    rows: list[tuple[int, np.ndarray]] = []
    too_short: list[str] = []
    broken: dict[str, str] = {}
    windows = 0
    for done, index in enumerate(indices):
        if progress:
            progress("live clips", done, len(indices))
        clip = clips[index]
        try:
            probabilities = _stream(runtime, clip)
        except SourceError as error:
            broken[clip_name(clip)] = str(error)
            continue
        windows += len(probabilities)
        if probabilities:
            rows.append((index, np.mean(probabilities, axis=0, dtype=np.float64)[order]))
        else:
            too_short.append(clip_name(clip))
    if progress:
        progress("live clips", len(indices), len(indices))
    kept = np.array([index for index, _ in rows], dtype=np.int64)
    truth = np.array([clips[index].label for index in kept], dtype=np.int64)
    means = np.array([mean for _, mean in rows]).reshape(len(rows), len(dataset.labels))
    return Scores(kept, truth, np.log(np.maximum(means, np.finfo(np.float64).tiny)), broken), too_short, windows


def _stream(runtime: Runtime, clip: Clip) -> list[np.ndarray]:
    """The probabilities (C,) of every window of a clip."""
    source = Stretch(open_source(clip.name), clip.start_s, clip.end_s)
    return [prediction.scores for prediction in runtime.stream(source) if prediction.state == "ok"]
