"""Ways to turn each new camera image into one decision over the last K images, with their work counted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from vlf_edge import Plan
from vlf_edge.backends.engine import Engine
from vlf_edge.backends.selection import open_engines
from vlf_edge.runtime import Recognizer
from vlf_edge.video.preprocess import Preprocessor


@dataclass
class Way:
    """One way to a decision. step: camera image -> logits (C,), None until K images were seen.

    work: {"frame": images encoded, "clip": windows classified} so far, counted where the work is done.
    """

    name: str
    engine: str
    precision: str
    step: Callable[[np.ndarray], np.ndarray | None]
    work: dict[str, int]
    times_ms: list[float] = field(default_factory=list)
    decisions: int = 0
    logits: np.ndarray | None = None

    def run(self, image: np.ndarray, timed: bool) -> None:
        start_s = time.perf_counter()
        self.logits = self.step(image)
        took_ms = (time.perf_counter() - start_s) * 1e3
        self.decisions += self.logits is not None
        if timed:
            self.times_ms.append(took_ms)


class CountedEngine(Engine):
    """Passes everything on to an engine and adds the sizes of the batches to ``work[stage]``."""

    def __init__(self, engine: Engine, stage: str, work: dict[str, int]):
        super().__init__(engine.backend, engine.inputs, engine.outputs, engine.max_batch)
        self._engine, self._stage, self._work = engine, stage, work

    def _infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._work[self._stage] += len(next(iter(inputs.values())))
        return self._engine._infer(inputs)

    def _close(self) -> None:
        self._engine.close()


def _counted_engines(plan: Plan, backend: str, stack: ExitStack) -> tuple[dict[str, Engine], dict[str, int]]:
    """The stages of a plan, and the work they will have done."""
    work = {"frame": 0, "clip": 0}
    engines = open_engines(plan, backend=backend).items()
    return {stage: stack.enter_context(CountedEngine(engine, stage, work)) for stage, engine in engines}, work


def streaming(plan: Plan, backend: str, stack: ExitStack) -> tuple[Way, Recognizer]:
    """The package's own way."""
    engines, work = _counted_engines(plan, backend, stack)
    recognizer = Recognizer(plan.manifest, engines)
    instants = count()

    def step(image: np.ndarray) -> np.ndarray | None:
        return recognizer.push(image, next(instants) * recognizer.sampling.grid_s).logits

    return Way("streaming", backend, plan.manifest.precision, step, work), recognizer


def whole_clip(plan: Plan, backend: str, stack: ExitStack) -> Way:
    """K images in, K frames encoded, every time; in engines of its own, which never see another batch size."""
    engines, work = _counted_engines(plan, backend, stack)
    preprocess = Preprocessor(plan.manifest.preprocess)
    kept: deque[np.ndarray] = deque(maxlen=plan.manifest.sampling.frames)

    def step(image: np.ndarray) -> np.ndarray | None:
        kept.append(preprocess(image))
        if len(kept) < kept.maxlen:
            return None
        tokens = _only(engines["frame"], np.stack(kept))
        return _only(engines["clip"], tokens[np.newaxis])[0]

    return Way("whole clip", backend, plan.manifest.precision, step, work)


def _only(engine: Engine, array: np.ndarray) -> np.ndarray:
    """The one output of an engine with one input."""
    return engine.infer({engine.inputs[0].name: array})[engine.outputs[0].name]


def eager(plan: Plan, name: str) -> Way:
    """The same two ways, named by ``name``, in eager PyTorch: a model of the plan's sizes with random weights."""
    import torch

    from vlf_edge.models import sizes_from_json

    torch.manual_seed(plan.manifest.weights.get("seed", 0))
    model = sizes_from_json(plan.manifest.model).build().eval()
    work = {"frame": 0, "clip": 0}
    for stage, module in (("frame", model.frame), ("clip", model.clip)):
        module.register_forward_pre_hook(_adder(stage, work))
    preprocess = Preprocessor(plan.manifest.preprocess)
    encode, decide = lambda images: images, model
    if name == "streaming":
        encode, decide = model.encode_frames, model.classify_tokens
    kept: deque[torch.Tensor] = deque(maxlen=model.sizes.frames)

    @torch.inference_mode()
    def step(image: np.ndarray) -> np.ndarray | None:
        kept.append(encode(torch.from_numpy(preprocess(image))[None])[0])
        return decide(torch.stack(tuple(kept))[None])[0].numpy() if len(kept) == kept.maxlen else None

    return Way(name, "torch", "fp32", step, work)


def _adder(stage: str, work: dict[str, int]) -> Callable[..., None]:
    """A hook that adds the size of a module's batch to ``work[stage]``."""

    def add(module: object, inputs: tuple) -> None:
        work[stage] += len(inputs[0])

    return add
