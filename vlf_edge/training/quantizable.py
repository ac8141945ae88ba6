"""Which layers of a model the compiler will make int8, and how they hang together, found by running it on zeros."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ..models.model import Model
from ..models.stage import Stage, evaluating
from ..types import TensorSpec


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer. weight: its name in the stage, which it keeps in the stage's ONNX graph.
    source: a number for the tensor it reads; layers that read the same one have the same.
    norm: the BatchNorm that the compiler folds into it, if one follows."""

    stage: str
    weight: str
    module: nn.Module
    source: int
    norm: _BatchNorm | None


def quantizable(model: Model) -> tuple[Layer, ...]:
    """The layers of all stages that have a part in the result, in the order they run."""
    layers: list[Layer] = []
    for stage in model.stages():
        trace = _Trace(stage)
        names = {module: name for name, module in stage.module.named_modules()}
        batch_norms = [(module, read) for module, read in trace.reads.items() if isinstance(module, _BatchNorm)]
        norms = {trace.makers.get(read): module for module, read in batch_norms}
        sources: dict[tuple, int] = {}
        first = 1 + max((layer.source for layer in layers), default=-1)
        for module, read in trace.reads.items():
            if module in trace.needed:
                source = sources.setdefault(read, first + len(sources))
                layers.append(Layer(stage.name, f"{names[module]}.weight", module, source, norms.get(module)))
    return tuple(layers)


class _Trace:
    """One run of a stage. reads: the tensor that each layer and BatchNorm read first. makers: the convolution that made
    a tensor. needed: the layers with a part in the result; some networks run on past the map that is taken of them."""

    def __init__(self, stage: Stage):
        self.reads: dict[nn.Module, tuple] = {}
        self.makers: dict[tuple, nn.Module] = {}
        self._alive: list[Tensor] = []  # so that no tensor takes another's memory
        layers = [module for module in stage.module.modules() if _is_weighted(module)]
        norms = [module for module in stage.module.modules() if isinstance(module, _BatchNorm)]
        hooks = [module.register_forward_pre_hook(self._before) for module in (*layers, *norms)]
        hooks += [module.register_forward_hook(self._after) for module in layers if isinstance(module, _ConvNd)]
        weights = [module.weight for module in layers]
        device = weights[0].device
        try:
            with evaluating(stage.module), _differentiable(weights):
                result = stage.module(*(_zeros(spec, device) for spec in stage.inputs))
                results = (result,) if isinstance(result, Tensor) else result  # beside states
                total = torch.stack([one.sum() for one in results]).sum()
                gradients = torch.autograd.grad(total, weights, allow_unused=True)
        finally:
            for hook in hooks:
                hook.remove()
            self._alive.clear()
        self.needed = {layer for layer, gradient in zip(layers, gradients) if gradient is not None}

    def _before(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.reads.setdefault(module, self._identity(inputs[0]))

    def _after(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.makers[self._identity(output)] = module

    def _identity(self, tensor: Tensor) -> tuple:
        """Equal for all names of one tensor, such as Identity layers give it, until it is changed in place."""
        self._alive.append(tensor)
        return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor._version


@contextmanager
def _differentiable(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gradients for these inside, also where they are frozen."""
    wanted = [parameter.requires_grad for parameter in parameters]
    try:
        with torch.enable_grad():
            for parameter in parameters:
                parameter.requires_grad_(True)
            yield
    finally:
        for parameter, want in zip(parameters, wanted):
            parameter.requires_grad_(want)


def _is_weighted(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, _ConvNd)) and not isinstance(module, _ConvTransposeNd)


def _zeros(spec: TensorSpec, device: torch.device) -> Tensor:
    return torch.zeros(spec.sized(1), dtype=getattr(torch, spec.dtype), device=device)
