"""Temporal Shift Module (Lin, Gan and Han, arXiv 1811.08383): a TSN whose residual branches see their neighbours.

Before the first convolution of every residual branch, an eighth of the channels is replaced by those of the frame
before; offline another eighth by those of the frame after. There are zeros before the first frame and after the last.

offline    whole clip: a frame's features depend on what comes after it, so none can be kept
online     causal: the stage carries the channels it will need for the next frame as its state, so a stream runs it
           once a frame, and its answer is that of the clip from the stream's beginning
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import VlfError
from ..types import TensorSpec
from .sizes import Sizes
from .stage import BATCH_AXIS, Stage
from .tsn import TSN

_SHARE = 8  # one channel of so many moves each way


@dataclass(frozen=True, kw_only=True)
class TSMSizes(Sizes):
    """Everything that defines a TSM but its weights and labels. online: causal, see above."""

    online: bool = False

    def build(self, pretrained: bool = False) -> TSM:
        return TSM(self, pretrained)


def _sizes(name: str, backbone: str, online: bool) -> TSMSizes:
    return TSMSizes(
        name=name, backbone=backbone, frames=8, height_px=224, width_px=224, dropout=0.5, online=online
    )  # fmt: skip


SIZES = {
    "tsm": _sizes("tsm", "resnet50", online=False),
    "tsm-mobilenetv2": _sizes("tsm-mobilenetv2", "mobilenetv2_100", online=False),
    "tsm-online": _sizes("tsm-online", "resnet50", online=True),
    "tsm-online-mobilenetv2": _sizes("tsm-online-mobilenetv2", "mobilenetv2_100", online=True),
}


class TSM(TSN):
    """Offline one stage for a whole clip; online a stage for each frame that carries a state, and the consensus."""

    def __init__(self, sizes: TSMSizes, pretrained: bool = False):
        super().__init__(sizes, pretrained)
        self._past = Past()
        self.shifts = _insert_shifts(self.frame.net, sizes, self._past)
        self._state_shapes = self._measure()

    def stages(self) -> tuple[Stage, ...]:
        s, channels = self.sizes, self.frame.channels
        image, logits = (s.height_px, s.width_px, 3), TensorSpec("logits", "float32", (BATCH_AXIS, s.classes))
        if not s.online:
            clip = TensorSpec("clip", "uint8", (BATCH_AXIS, s.frames, *image))
            return (Stage("clip", _WholeClip(self), (clip,), (logits,)),)
        shapes = [(BATCH_AXIS, *shape) for shape in self._state_shapes]
        past, following = (
            tuple(TensorSpec(f"{when}_{number}", "float32", shape) for number, shape in enumerate(shapes))
            for when in ("past", "next")
        )
        return (
            Stage(
                "frame",
                _OneFrame(self),
                (TensorSpec("image", "uint8", (BATCH_AXIS, *image)), *past),
                (TensorSpec("tokens", "float32", (BATCH_AXIS, channels)), *following),
                state={a.name: b.name for a, b in zip(past, following)},
            ),
            Stage("clip", self.clip, (TensorSpec("tokens", "float32", (BATCH_AXIS, s.frames, channels)),), (logits,)),
        )

    def encode_frame(self, images: Tensor, past: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The online model on the next frame of N streams.

        images (N, H, W, 3) uint8. past: what the call for the frame before gave, zeros at first, each (N, channels, h,
        w). Returns vectors (N, D) and what the next call needs.
        """
        with self._past.of_streams(past):
            return self.frame(images), self._past.kept

    @torch.no_grad()
    def _measure(self) -> list[tuple[int, ...]]:
        """Shapes (channels, h, w) of the states."""
        if not self.sizes.online:
            return []
        mode = self.training
        self.eval()
        image = torch.zeros(1, self.sizes.height_px, self.sizes.width_px, 3, dtype=torch.uint8)
        with self._past.of_streams(None):
            self.frame(image)
            shapes = [tuple(kept.shape[1:]) for kept in self._past.kept]
        self.train(mode)
        return shapes


class Past:
    """What the shifts of a model take from the frame before, and leave for the next, while streams are run."""

    def __init__(self) -> None:
        self.streaming = False
        self.given: list[Tensor] | None = None
        self.kept: list[Tensor] = []

    def of_streams(self, given: Sequence[Tensor] | None) -> Past:
        """For a with-block in which a batch is one frame each of several streams. given: one for each shift, None for
        zeros."""
        self.given, self.kept = None if given is None else list(given), []
        return self

    def __enter__(self) -> Past:
        self.streaming = True
        return self

    def __exit__(self, *exc_info) -> None:
        self.streaming, self.given, self.kept = False, None, []

    def swap(self, leaving: Tensor) -> Tensor:
        """Takes the next shift's channels (N, c, h, w) of this frame; gives those of the frame before."""
        before = torch.zeros_like(leaving) if self.given is None else self.given[len(self.kept)]
        self.kept.append(leaving)
        return before


class Shift(nn.Module):
    """A convolution that gets some channels of its input from the neighbouring frames of its clip."""

    def __init__(self, net: nn.Module, sizes: TSMSizes, past: Past):
        super().__init__()
        self.net = net
        self._frames, self._online, self._past = sizes.frames, sizes.online, past
        self._moved = net.in_channels // _SHARE

    def forward(self, x: Tensor) -> Tensor:
        """x: (N*K, channels, h, w), or (N, channels, h, w) of streams."""
        moved = self._moved
        if self._past.streaming:
            return self.net(torch.cat([self._past.swap(x[:, :moved]), x[:, moved:]], dim=1))
        clip = x.unflatten(0, (-1, self._frames))  # (N, K, channels, h, w)
        first, second, rest = clip[:, :, :moved], clip[:, :, moved : 2 * moved], clip[:, :, 2 * moved :]
        zeros = torch.zeros_like(first[:, :1])
        if self._online:
            parts = [torch.cat([zeros, first[:, :-1]], dim=1), second, rest]
        else:
            parts = [torch.cat([first[:, 1:], zeros], dim=1), torch.cat([zeros, second[:, :-1]], dim=1), rest]
        return self.net(torch.cat(parts, dim=2).flatten(0, 1))


class _WholeClip(nn.Module):
    def __init__(self, model: TSM):
        super().__init__()
        self.frame, self.clip = model.frame, model.clip

    def forward(self, clip: Tensor) -> Tensor:
        vectors = self.frame(clip.float().flatten(0, 1))  # (N*K, D)
        return self.clip(vectors.unflatten(0, (-1, clip.shape[1])))


class _OneFrame(nn.Module):
    def __init__(self, model: TSM):
        super().__init__()
        self.frame = model.frame
        self._past = model._past

    def forward(self, image: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        with self._past.of_streams(past):
            vectors = self.frame(image)
            return vectors, *self._past.kept


def _insert_shifts(net: nn.Module, sizes: TSMSizes, past: Past) -> list[Shift]:
    """Before the first convolution of every residual branch, or of every second where a level has 23 or more."""
    shifts = []
    for level in net.children():
        for blocks in (level, *level.children()):
            if not isinstance(blocks, nn.Sequential):
                continue
            every = 2 if len(blocks) >= 23 else 1
            for number, block in enumerate(blocks):
                where = _first_convolution(block)
                if where and number % every == 0:
                    shift = Shift(getattr(block, where), sizes, past)
                    setattr(block, where, shift)
                    shifts.append(shift)
    if not shifts:
        raise VlfError(
            f"backbone {sizes.backbone!r} has no residual branches that a shift could go into; take a ResNet or a "
            "MobileNetV2, such as resnet18 or mobilenetv2_100"
        )
    return shifts


def _first_convolution(block: nn.Module) -> str | None:
    """Name of the first convolution of a residual branch: of ResNets, and of inverted residuals with a skip."""
    if isinstance(getattr(block, "conv1", None), nn.Conv2d) and hasattr(block, "downsample"):
        return "conv1"
    if isinstance(getattr(block, "conv_pw", None), nn.Conv2d) and hasattr(block, "conv_pwl") and block.has_skip:
        return "conv_pw"
    return None
