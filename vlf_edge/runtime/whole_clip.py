"""One decision over a whole clip, independent of any stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from ..errors import SourceError
from ..types import MAIN, Frame, Prediction
from ..video.sampler import segment_centres
from ..video.sources import Source, open_source
from .recognizer import Recognizer, best_first
from .stream import Stream


def classify_file(recognizer: Recognizer, clip: str) -> Prediction:
    """By its windows, if the plan's labels were taught by such and it has one; else by the middle frame of each of K
    equal segments. The clip is read more than once, and never held in memory. Raises SourceError, ModelError."""
    head = recognizer.manifest.head
    if head is not None and head.by_windows:
        with _opened(clip) as source:
            decision = classify_windows(recognizer, source)
        if decision is not None:
            return decision
    with _opened(clip) as source:
        count = sum(1 for _ in source)
    if count == 0:
        raise SourceError(f"{source.name} holds no frames to classify")
    wanted = set(segment_centres(count, recognizer.sampling.frames))
    with _opened(clip) as source:
        kept = [(frame.image, frame.t_s) for frame in source if frame.seq in wanted]
    images, times_s = zip(*kept)
    return recognizer.classify(images, times_s)


def classify_windows(recognizer: Recognizer, frames: Iterable[Frame]) -> Prediction | None:
    """By the mean probabilities of all windows that a stream of these frames has; their logarithms are the logits. None
    if it has no window."""
    stream, found = Stream(MAIN, recognizer.sampling), []
    try:
        for frame in frames:
            due = recognizer.accept(stream, frame.image, frame.t_s, seq=frame.seq, begins=frame.begins)
            found += [] if due is None else recognizer.decide([due])
    finally:
        recognizer.executor.forget(stream)
    found = [decision for decision in found if decision.state == "ok"]
    if not found:
        return None
    recognizer.stats.add(clips=1)
    scores = np.mean([decision.scores for decision in found], axis=0, dtype=np.float64).astype(np.float32)
    topk = best_first(recognizer.manifest.labels, scores, len(found[-1].topk))
    return replace(
        found[-1],
        t_start_s=found[0].t_start_s,
        label=topk[0][0],
        score=topk[0][1],
        scores=scores,
        logits=np.log(np.maximum(scores, np.finfo(np.float32).tiny)),
        topk=topk,
    )


@contextmanager
def _opened(clip: str) -> Iterator[Source]:
    with open_source(clip) as source:
        if source.live:
            raise SourceError(
                f"{source.name} is a camera and never ends: classify takes files; for cameras use stream()"
            )
        yield source
