"""A model as evaluation sees it: two stages that map whole clips to logits, wherever they run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..backends.engine import Engine
from ..backends.selection import open_engines
from ..batches import in_batches
from ..errors import PlanMismatch
from ..plan import Plan
from ..runtime.self_test import accepting
from ..types import Preprocess, Sampling


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

    @abstractmethod
    def encode(self, images: np.ndarray) -> np.ndarray:
        """The frame stage: (n, H, W, 3) uint8 BGR -> tokens (n, S, D)."""

    @abstractmethod
    def decide(self, windows: np.ndarray) -> np.ndarray:
        """The clip stage: tokens (n, K, S, D), oldest frame first -> logits (n, C)."""

    def classify(self, clips: np.ndarray, batch: int = 8) -> np.ndarray:
        """Both: (n, K, H, W, 3) uint8 BGR -> logits (n, C) float32, at most ``batch`` frames or windows at a time."""
        tokens = in_batches(self.encode, clips.reshape(-1, *clips.shape[2:]), batch)
        windows = tokens.reshape(*clips.shape[:2], *tokens.shape[1:])
        return in_batches(self.decide, windows, batch).astype(np.float32)

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
        if set(engines) != {"frame", "clip"}:
            self.close()
            raise PlanMismatch(f"{plan.path} has the stages {', '.join(engines)}; this version runs: frame, clip")
        classes = engines["clip"].outputs[0].shape[-1]
        if classes != len(manifest.classes):
            self.close()
            raise PlanMismatch(f"{plan.path} names {len(manifest.classes)} labels, but its model has {classes} classes")
        self._head, roles = plan.head(), {one.name: one for one in manifest.stage_roles}["clip"]
        reads = ("logits",) if self._head is None else self._head.info.reads
        self._outputs = {"frame": [engines["frame"].outputs[0].name], "clip": [roles.output_of(role) for role in reads]}

    def encode(self, images: np.ndarray) -> np.ndarray:
        return self._run("frame", images)[0]

    def decide(self, windows: np.ndarray) -> np.ndarray:
        parts = self._run("clip", windows)
        return parts[0] if self._head is None else self._head(np.concatenate(parts, axis=1))

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()

    def _run(self, stage: str, items: np.ndarray) -> list[np.ndarray]:
        engine = self._engines[stage]
        results = engine.infer_all({engine.inputs[0].name: items})
        return [results[name] for name in self._outputs[stage]]


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
