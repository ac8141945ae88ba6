"""A model as evaluation sees it: it maps whole clips to logits, wherever it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..backends.engine import Engine
from ..backends.selection import open_engines
from ..batches import in_batches
from ..errors import PlanMismatch
from ..plan import Plan
from ..runtime.host_executor import HostExecutor
from ..runtime.recognizer import Recognizer
from ..runtime.self_test import accepting
from ..runtime.stats import Stats
from ..runtime.whole_clip import classify_windows
from ..types import Frame, Preprocess, Sampling


class Classifier(ABC):
    """Something that decides about clips.

    name: what the user called it. backend: what runs it. labels: C class names, in logit order. preprocess, sampling:
    what its clips must look like. Close it after use, or use it as a context manager.
    """

    name: str
    backend: str
    labels: tuple[str, ...]
    preprocess: Preprocess
    sampling: Sampling
    by_windows = False
    """Whether it decides about a clip by the windows that a stream of it has (``HeadInfo.by_windows``)."""

    @abstractmethod
    def classify(self, clips: np.ndarray, batch: int = 8) -> np.ndarray:
        """(n, K, H, W, 3) uint8 BGR -> logits (n, C) float32, at most ``batch`` frames or windows at a time."""

    def classify_windows(self, frames: Iterable[Frame]) -> np.ndarray | None:
        """A clip, frame by frame -> logits (C,) float32 of all its windows together; None if it has none, or if the
        classifier does not decide by windows."""
        return None

    def sees_as(self, other: Classifier) -> bool:
        """Whether the frames of a clip are the same for both."""
        mine, theirs = self.sampling, other.sampling
        return (self.preprocess, mine.frames, mine.span_s) == (other.preprocess, theirs.frames, theirs.span_s)

    def close(self) -> None:
        """Frees what the classifier holds; idempotent."""

    def __enter__(self) -> Classifier:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()


class EngineClassifier(Classifier):
    """A plan on its engines, which it closes. Raises PlanMismatch for engines that do not make a classifier."""

    def __init__(self, plan: Plan, engines: Mapping[str, Engine], name: str | None = None):
        manifest = plan.manifest
        self.name = name or str(plan.path)
        self.labels, self.preprocess, self.sampling = manifest.labels, manifest.preprocess, manifest.sampling
        self._engines = dict(engines)
        self.backend = next(iter(engines.values())).backend
        if set(engines) != set(manifest.stages):
            self.close()
            expected = ", ".join(manifest.stages)
            raise PlanMismatch(f"{plan.path} has engines for {', '.join(engines)}; its stages are {expected}")
        self._head = plan.head()
        reads = ("logits",) if self._head is None else self._head.info.reads
        try:
            # Whole clips know no grids that interleave.
            sampling = replace(manifest.sampling, phases=1)
            self._executor = HostExecutor(manifest.stage_roles, engines, sampling, Stats(kept=1), reads)
        except PlanMismatch:
            self.close()
            raise
        last = manifest.stage_roles[-1]
        classes = next(spec for spec in engines[last.name].outputs if spec.name == last.main_output).shape[-1]
        if classes != len(manifest.classes):
            self.close()
            raise PlanMismatch(f"{plan.path} names {len(manifest.classes)} labels, but its model has {classes} classes")
        self.by_windows = self._head is not None and self._head.info.by_windows
        self._recognizer = Recognizer(manifest, engines, head=self._head) if self.by_windows else None

    def classify(self, clips: np.ndarray, batch: int = 8) -> np.ndarray:
        encoder = self._executor.encoder
        if encoder is None or encoder.roles.state:  # K images of each clip are in the works at a time, or one
            at_once = max(1, batch // clips.shape[1]) if encoder is None else batch
            classify = self._executor.classify
            return in_batches(lambda part: self._decided(classify(part)), clips, at_once).astype(np.float32)
        tokens = in_batches(self.encode, clips.reshape(-1, *clips.shape[2:]), batch)
        windows = tokens.reshape(*clips.shape[:2], *tokens.shape[1:])
        return in_batches(self.decide, windows, batch).astype(np.float32)

    def classify_windows(self, frames: Iterable[Frame]) -> np.ndarray | None:
        decision = None if self._recognizer is None else classify_windows(self._recognizer, frames)
        return None if decision is None else decision.logits

    @property
    def encodes(self) -> bool:
        """Whether there is a stage for single frames."""
        return self._executor.encoder is not None

    def encode(self, images: np.ndarray) -> np.ndarray:
        """What a window has of each frame: (n, H, W, 3) uint8 BGR -> tokens (n, ...), each as the first of a stream;
        the images themselves for a plan of one stage."""
        encoder = self._executor.encoder
        return images if encoder is None else encoder.answer(encoder.run(images, encoder.first_state(len(images))))

    def decide(self, windows: np.ndarray) -> np.ndarray:
        """Windows of these (n, K, ...), oldest frame first -> logits (n, C)."""
        decider = self._executor.decider
        return self._decided(windows[:, -1] if decider is None else decider.answer(decider.run(windows)))

    def _decided(self, answers: np.ndarray) -> np.ndarray:
        return answers if self._head is None else self._head(answers)

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()


def open_classifier(
    plan: Plan,
    *,
    backend: str = "auto",
    device: int = 0,
    rebuild: str = "auto",
    cuda_graph: bool = True,
    threads: int | None = None,
    self_test: bool = True,
) -> EngineClassifier:
    """A plan on the engines that run it here; see ``open_engines`` for the arguments and errors, and ``Runtime`` for
    ``self_test``."""
    on: dict[str, Any] = {"device": device, "cuda_graph": cuda_graph}
    if self_test:
        on["accept"] = accepting(plan, **on)
    engines = open_engines(plan, backend=backend, rebuild=rebuild, threads=threads, **on)
    return EngineClassifier(plan, engines)


def columns_of(labels: Sequence[str], other: Classifier) -> list[int]:
    """Where each of ``labels`` stands in the logits of ``other``. Raises PlanMismatch naming what only one has."""
    missing, unknown = sorted(set(labels) - set(other.labels)), sorted(set(other.labels) - set(labels))
    if missing or unknown or len(set(labels)) < len(labels):
        raise PlanMismatch(
            f"{other.name} cannot be compared with: it is for other classes ({len(missing)} missing: "
            f"{', '.join(missing[:3]) or 'none'}; {len(unknown)} unknown: {', '.join(unknown[:3]) or 'none'})"
        )
    return [other.labels.index(label) for label in labels]
