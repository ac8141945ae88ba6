"""What every model is: tokens of each frame, mixed over time, decided upon."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ShapeError
from ..types import TensorSpec
from .sizes import Sizes
from .stage import BATCH_AXIS, Stage


class Model(nn.Module, ABC):
    """A video model: ``decide(mix(encode(clips)))``. Its stages are the same parameters as graphs.

    sizes: everything but the weights. tokens: S, of a frame. token_dim: D, of a token. heads: the linear layers that
    give the logits, one for each thing that is averaged in the end. backbones: the networks of timm in it.
    Images are (H, W, 3) uint8 in BGR order, 0..255, as OpenCV gives them. Logits are raw: no softmax.
    Called with tensors of another shape or kind, a model raises ShapeError.
    """

    sizes: Sizes
    tokens: int
    token_dim: int
    heads: tuple[nn.Linear, ...]
    backbones: tuple[nn.Module, ...]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a frame's tokens."""
        return 1, self.tokens

    @abstractmethod
    def encode(self, clips: Tensor) -> Tensor:
        """clips (N, K, H, W, 3) uint8, oldest frame first -> tokens of each frame (N, K, S, D) float32."""

    def mix(self, tokens: Tensor) -> Tensor:
        """Tokens (N, K, S, D), each knowing its own frame -> (N, K, S, D), each knowing all; the same if no part of
        the model does that."""
        return tokens

    @abstractmethod
    def decide(self, mixed: Tensor) -> Tensor:
        """What ``mix`` gave, (N, K, S, D) -> logits (N, C) float32."""

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """The graphs that are exported, in the order in which a frame goes through them."""

    def forward(self, clips: Tensor) -> Tensor:
        """clips (N, K, H, W, 3) uint8, oldest frame first -> logits (N, C) float32."""
        s = self.sizes
        clips = checked(clips, TensorSpec("clips", "uint8", (BATCH_AXIS, s.frames, s.height_px, s.width_px, 3)))
        return self.decide(self.mix(self.encode(clips)))


def checked(tensor: Tensor, spec: TensorSpec) -> Tensor:
    """The tensor. A float image in 0..1 would pass through a network and mean nothing: raises ShapeError for it."""
    kind_differs = tensor.is_floating_point() != (spec.dtype == "float32")
    if kind_differs or tuple(tensor.shape[1:]) != spec.shape[1:]:
        raise ShapeError(f"got {str(tensor.dtype).removeprefix('torch.')}{tuple(tensor.shape)}, expected {spec}")
    return tensor


class Normalise(nn.Module):
    """Images (N, H, W, 3) uint8 BGR -> (N, 3, H, W) float32 RGB, normalised.

    mean, std: RGB, of images scaled to 0..1.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        # In pixel units: (x / 255 - mean) / std = (x - 255 mean) / (255 std), one subtraction and one division.
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = images.float().permute(0, 3, 1, 2)  # (N, 3, H, W) BGR; the cast comes first, TensorRT asks for it
        return (x.flip(1) - self.mean) / self.std
