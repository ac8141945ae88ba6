"""What a plan is compared with: another plan, its own fp32 graphs, or the weights it came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import backends
from ..backends.engine import Engine
from ..backends.table import CPU_BACKENDS, TABLE
from ..batches import in_batches
from ..errors import BackendMissing, VlfError
from ..plan import Plan
from ..software import require_packages
from ..types import Sampling
from .classifier import Classifier, EngineClassifier, open_classifier

if TYPE_CHECKING:
    from ..models.weights import LoadedWeights

OWN_FP32 = "fp32"
_WEIGHTS = (".safetensors", ".pt", ".pth")


def open_reference(
    what: str,
    plan: Plan,
    *,
    backend: str = "auto",
    device: int = 0,
    rebuild: str = "auto",
    cuda_graph: bool = True,
    threads: int | None = None,
    self_test: bool = True,
) -> Classifier:
    """Opens what ``plan`` is to be compared with.

    what: "fp32" (the plan's own unquantised graphs, on the CPU), a .plan file (on its engines; backend, device,
    rebuild, cuda_graph, threads, self_test: see ``open_classifier``) or a weights file (by PyTorch, on the CPU). Raises
    BackendMissing, PlanError, WeightsError, and VlfError for any other kind of file.
    """
    if what == OWN_FP32:
        return EngineClassifier(plan, _fp32_engines(plan, threads), name="its own fp32 graphs")
    suffix = Path(what).suffix
    if suffix == ".plan":
        return open_classifier(
            Plan.open(what),
            backend=backend,
            device=device,
            rebuild=rebuild,
            cuda_graph=cuda_graph,
            threads=threads,
            self_test=self_test,
        )
    if suffix in _WEIGHTS:
        return _open_weights(what, plan)
    raise VlfError(f"cannot compare with {what!r}; expected fp32, a .plan file or weights ({', '.join(_WEIGHTS)})")


class WeightsClassifier(Classifier):
    """Weights as PyTorch computes them, in float32 on the CPU. span_s: of a window, where the record names none."""

    backend = "torch"

    def __init__(self, name: str, loaded: LoadedWeights, span_s: float):
        sizes = loaded.model.sizes
        self.name, self.labels, self._model = name, loaded.labels, loaded.model
        self.preprocess = sizes.preprocess
        self.sampling = Sampling(sizes.frames, loaded.record.get("span_s", span_s))

    def classify(self, clips: np.ndarray, batch: int = 8) -> np.ndarray:
        import torch

        with torch.inference_mode():
            at_once = max(1, batch // clips.shape[1])
            return in_batches(lambda part: self._model(torch.from_numpy(part)).numpy(), clips, at_once)


def _open_weights(what: str, plan: Plan) -> WeightsClassifier:
    instead = "without PyTorch, compare with fp32 or another plan"
    require_packages("models", f"comparing with the weights {what}", ("torch", "timm", "safetensors"), instead)
    from ..models.weights import load_weights

    return WeightsClassifier(what, load_weights(what), plan.manifest.sampling.span_s)


def _fp32_engines(plan: Plan, threads: int | None) -> dict[str, Engine]:
    """The graphs that every later build starts from. ONNX Runtime first: nothing in it rounds to less than float32."""
    graphs = {stage: plan.graph(stage, "fp32") for stage in plan.manifest.stages}
    for name in filter(backends.installed, reversed(CPU_BACKENDS)):
        return {stage: TABLE[name].open_graph(graph, threads=threads) for stage, graph in graphs.items()}
    raise BackendMissing(
        f"the fp32 graphs of {plan.path} need one of {', '.join(CPU_BACKENDS)}",
        remedy=f"install one with: {TABLE[CPU_BACKENDS[0]].install}",
    )
