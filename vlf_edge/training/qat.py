"""Quantisation-aware fine-tuning: the model computes in float32 what its int8 graph will compute, and learns around it.

    fake_quantize(model, measure_scales(model, a_few_batches))  # from here on, model(clip) answers as its int8 plan
    ...                                                         # train as ever, but in float32: see below
    save_weights(path, plain_copy(model), labels, {"qat": {"scales": trained_scales(model)}})

What ``compiler/quantization/quantize.py`` makes int8 is quantised here, in the same way: the input (per tensor) and the
weight (per output channel) of every convolution and linear layer, both symmetric, with scales that float16 holds
exactly. All else stays float, the two products inside attention too.

- Weights: the compiler folds BatchNorm into convolutions, so it is the folded weight that must lie on the int8 grid.
  BatchNorm's statistics are frozen; its gain and bias go on learning. A channel's scale is its largest weight's.
- Activations: scales are learned with the gradient of LSQ (Esser et al., arXiv 1902.08153). Their logarithms are the
  parameter: one learning rate then suits scales of any size.
- Rounding has gradient one (straight-through).
- No autocast: bfloat16 has too few digits for a code times its scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from ..errors import CalibrationError, WeightsError
from ..models.model import Model
from ..models.stage import evaluating
from .quantizable import Layer, quantizable

PERCENTILE = 99.99  # of an input's magnitudes other than zero: where its scale starts
_CODES = 127
_LOWEST, _HIGHEST = -128, 127  # of an activation's code
_SMALLEST_SCALE, _LARGEST_SCALE = 2.0**-24, 65504.0  # of float16
_MAX_VALUES = 16381  # of one tensor and batch, for calibration; a prime, so that no axis is seen at one place only
_ORIGINAL = "parametrizations.weight.original"  # where PyTorch keeps a parametrised weight

# Stage -> a layer's weight, by its name in the stage and in the stage's ONNX graph -> scale of the layer's input.
# 0.0: the input was zero throughout calibration, and the layer stays float. Plain JSON.
Scales = dict[str, dict[str, float]]


def measure_scales(model: Model, batches: Iterable[Tensor]) -> Scales:
    """Scales to start from, by the inputs' magnitudes.

    model: not fake-quantised yet. batches: clips (N, K, H, W, 3) uint8, a few dozen in all.
    Raises CalibrationError for no clips, and for activations that are NaN or infinite.
    """
    layers = quantizable(model)
    magnitudes: dict[int, list[np.ndarray]] = {layer.source: [] for layer in layers}
    readers = {layer.source: layer.module for layer in layers}  # one of each tensor's
    hooks = [
        module.register_forward_pre_hook(partial(_collect, magnitudes[source])) for source, module in readers.items()
    ]
    device = next(model.parameters()).device
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches:
                model(batch.to(device))
    finally:
        for hook in hooks:
            hook.remove()
    scales: Scales = {}
    for layer in layers:
        scales.setdefault(layer.stage, {})[layer.weight] = _starting_scale(layer, magnitudes[layer.source])
    return scales


def fake_quantize(model: Model, scales: Mapping[str, Mapping[str, float]]) -> None:
    """Makes ``model`` answer, in training and in evaluation mode, as its int8 graph with these scales will.

    It stays a module like any other: its scales are one more parameter (1-D, not to be decayed), seen by optimisers,
    averages, copies and ``state_dict``; weights are found there under PyTorch's names for parametrised ones.
    Raises WeightsError if the scales are of another model.
    """
    layers = quantizable(model)
    model.fake_quantizer = FakeQuantizer(layers, scales).to(next(model.parameters()).device)
    for layer in layers:
        index = model.fake_quantizer.places[layer.stage][layer.weight]
        if index is not None:
            layer.module.register_forward_pre_hook(_FakeInput(model.fake_quantizer, index))
            parametrize.register_parametrization(layer.module, "weight", _FakeWeight(layer.norm))
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(_freeze)


def trained_scales(model: Model) -> Scales:
    """The scales of a fake-quantised model as they are now, for the training record and ``fake_quantize``."""
    return model.fake_quantizer.scales()


def plain_copy(model: Model) -> Model:
    """A fake-quantised model without its quantisation: what ``save_weights`` takes. A copy, on the CPU."""
    state = {
        name.replace(_ORIGINAL, "weight"): tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("fake_quantizer.")
    }
    with torch.random.fork_rng(devices=[]):  # its random weights are about to be replaced
        plain = model.sizes.build()
    plain.load_state_dict(state)
    return plain.train(model.training)


class FakeQuantizer(nn.Module):
    """The scales of a model's activations as one parameter: ``log_scales`` (Q,) float32, their natural logarithms.

    places: stage -> weight -> index into it, None for a layer that stays float. Layers that read the same tensor share
    one index, as they share one quantiser in the graph. Raises WeightsError for scales that do not fit the layers.
    """

    def __init__(self, layers: Sequence[Layer], scales: Mapping[str, Mapping[str, float]]):
        super().__init__()
        by_source = _by_source(layers, scales)
        live = [source for source, scale in by_source.items() if scale]
        self.places: dict[str, dict[str, int | None]] = {}
        for layer in layers:
            index = live.index(layer.source) if layer.source in live else None
            self.places.setdefault(layer.stage, {})[layer.weight] = index
        self.log_scales = nn.Parameter(torch.tensor([math.log(by_source[source]) for source in live]))

    def forward(self, x: Tensor, index: int) -> Tensor:
        """x (N, ...) float32 -> the nearest values of int8 grid ``index``, (N, ...) float32."""
        return _LearnedStep.apply(x, _float16(self.log_scales[index].exp()))

    def scales(self) -> Scales:
        """The scales of the grids, exactly."""
        values = _float16(self.log_scales.detach().exp()).tolist()
        return {
            stage: {weight: 0.0 if index is None else values[index] for weight, index in indices.items()}
            for stage, indices in self.places.items()
        }


class _LearnedStep(torch.autograd.Function):
    """(x, scale) -> QuantizeLinear, then DequantizeLinear; backwards LSQ's equation 3 and its section 2.2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ratio = x / scale
        ctx.save_for_backward(ratio)
        return ratio.round().clamp_(_LOWEST, _HIGHEST).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (ratio,) = ctx.saved_tensors
        inside = (ratio >= _LOWEST) & (ratio <= _HIGHEST)
        codes = ratio.round().clamp_(_LOWEST, _HIGHEST)
        by_scale = (grad * (codes - ratio * inside)).sum()
        features = ratio.numel() // len(ratio)
        return grad * inside, by_scale / math.sqrt(features * _HIGHEST)


class _FakeInput:
    """Forward pre-hook: quantises what a layer reads. A class, so that a copied model's hooks hold its own scales."""

    def __init__(self, quantizer: FakeQuantizer, index: int):
        self._quantizer, self._index = quantizer, index

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self._quantizer(inputs[0], self._index), *inputs[1:])


class _FakeWeight(nn.Module):
    """Parametrisation: the weight (O, ...) that, once multiplied with the gain of ``norm``, is on its int8 grid.

    norm: the BatchNorm that is folded into the layer, or None.
    """

    def __init__(self, norm: _BatchNorm | None):
        super().__init__()
        self._norm = (norm,)  # a tuple hides it: its parameters are the model's own

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            gain = _gain(self._norm[0], weight)
            quantized = torch.where(gain == 0, weight, quantized_weight(weight * gain) / gain)
        return quantized + (weight - weight.detach())  # the value of one, the gradient of the other


def quantized_weight(weight: Tensor) -> Tensor:
    """weight (O, ...) float32 -> the nearest values of its int8 grids, one for each of the O output channels."""
    scales = _column(float16_scales(weight.abs().flatten(1).amax(dim=1)), weight.ndim)
    return (weight / scales).round().clamp(-_CODES, _CODES) * scales


def float16_scales(limits: Tensor) -> Tensor:
    """float32 scales that map magnitudes up to ``limits`` onto the codes up to 127, each rounded up to a float16
    number; 1 for a limit of zero. As in the compiler, on any device."""
    wanted = torch.where(limits > 0, limits.double() / _CODES, 1.0)
    scales = wanted.half()
    # The next float16 has the next bit pattern: positive floats are ordered as whole numbers are.
    return torch.where(scales < wanted, (scales.view(torch.int16) + 1).view(torch.float16), scales).float()


def _gain(norm: _BatchNorm | None, weight: Tensor) -> Tensor:
    """(O, 1, ...): what folding ``norm`` into a weight (O, ...) multiplies it with."""
    if norm is None:
        return torch.ones_like(weight[:1])
    deviation = torch.sqrt(norm.running_var + norm.eps)
    return _column(1 / deviation if norm.weight is None else norm.weight / deviation, weight.ndim)


def _column(values: Tensor, ndim: int) -> Tensor:
    return values.view(-1, *[1] * (ndim - 1))


def _float16(scale: Tensor) -> Tensor:
    """The nearest scale that float16 holds, as float32; the gradient passes straight through."""
    scale = scale.clamp(_SMALLEST_SCALE, _LARGEST_SCALE)
    return scale.detach().half().float() + (scale - scale.detach())


def _freeze(norm: nn.Module, _: tuple[Tensor, ...]) -> None:
    """Forward pre-hook: whatever ``train()`` said, the statistics stay those that the weights are folded with."""
    norm.training = False


def _collect(magnitudes: list[np.ndarray], _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Forward pre-hook: keeps an even selection of what a layer reads, without zeros: they fit any scale."""
    values = inputs[0].flatten()
    count = min(_MAX_VALUES, values.numel())
    chosen = values[torch.arange(count, device=values.device) * values.numel() // count].abs()
    magnitudes.append(chosen[chosen != 0].cpu().numpy())


def _starting_scale(layer: Layer, magnitudes: Sequence[np.ndarray]) -> float:
    if not magnitudes:
        raise CalibrationError("quantisation-aware training needs clips to start from and got none")
    values = np.concatenate(magnitudes)
    scale = float(np.percentile(values, PERCENTILE)) / _CODES if values.size else 0.0
    if not scale <= _LARGEST_SCALE:  # NaN too
        raise CalibrationError(
            f"the input of {layer.stage}/{layer.weight} reaches {scale * _CODES:.4g}; int8 needs weights that give "
            "finite activations within float16: start from other weights"
        )
    return scale


def _by_source(layers: Sequence[Layer], scales: Mapping[str, Mapping[str, float]]) -> dict[int, float]:
    """The scale of every tensor that layers read."""
    given = {(stage, weight) for stage, weights in scales.items() for weight in weights}
    differ = sorted(given ^ {(layer.stage, layer.weight) for layer in layers})
    if differ:
        raise WeightsError(
            f"the scales given are of another model: {len(differ)} layers differ, such as {'/'.join(differ[0])}"
        )
    found: dict[int, float] = {}
    for layer in layers:
        name, scale = f"{layer.stage}/{layer.weight}", scales[layer.stage][layer.weight]
        if not 0 <= scale <= _LARGEST_SCALE:
            raise WeightsError(f"the scale of {name} is {scale!r}, expected 0 to {_LARGEST_SCALE:.0f}; calibrate again")
        if found.setdefault(layer.source, scale) != scale:
            raise WeightsError(
                f"the scales given are of another model: {name} has {scale!r}, but another layer that reads the same "
                f"tensor has {found[layer.source]!r}"
            )
    return found
