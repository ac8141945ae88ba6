"""VideoLightFormer (Koot and Lu, arXiv 2107.00451):  VLF(X) = MLP(h(g(f(x1)), ..., g(f(xk)))).

f  a 2-D CNN, on each frame                                 \\ frame stage: once per image of a stream
g  a spatial transformer, on the tokens of each frame       /
h  a joint spatio-temporal transformer, on all k frames     \\ clip stage: once per decision
MLP on the mean of h's tokens                               /

The paper's equations and figure fix this structure. Every width and depth in ``SIZES`` is a choice of this project.

Axes: N batch, K frames, H height, W width, S tokens of a frame, D channels of a token, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import VlfError
from ..types import TensorSpec
from .backbone import Backbone
from .model import Model, checked
from .sizes import Sizes
from .stage import BATCH_AXIS, Stage

_USUAL_STEP = 2


@dataclass(frozen=True, kw_only=True)
class VLFSizes(Sizes):
    """Everything that defines a VLF but its weights and labels.

    reduction: stride of the map taken from the backbone. token_step: places of that map, down and across, for one
    token: 1 and 2 are the stride of the projection, more are means over what stride 2 gives. token_dim: D. spatial_*:
    layers and heads of g, 0 layers for a model without it; temporal_*: of h. ffn_ratio: hidden channels of a
    feed-forward network, in D. Raises VlfError for sizes no model can have.
    """

    reduction: int
    token_dim: int
    spatial_layers: int
    spatial_heads: int
    temporal_layers: int
    temporal_heads: int
    ffn_ratio: int = 4
    token_step: int = _USUAL_STEP

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token_step > 1 and self.token_step % 2:
            raise VlfError(f"token_step is {self.token_step}, expected 1 or an even number")
        for heads in (self.spatial_heads, self.temporal_heads):
            if self.token_dim % heads:
                raise VlfError(f"token_dim {self.token_dim} does not divide into {heads} heads")

    def build(self, pretrained: bool = False) -> VLF:
        return VLF(self, pretrained)

    def to_json(self) -> dict[str, Any]:
        raw = super().to_json()
        if self.token_step == _USUAL_STEP:  # as files were written before there was another
            del raw["token_step"]
        return raw

    @classmethod
    def from_json(cls, raw: Any) -> VLFSizes:
        return super().from_json({"token_step": _USUAL_STEP, **raw} if isinstance(raw, dict) else raw)


_POSITION_STD = 0.5
# Sines over time, not noise, as its initial positions: attention then finds "earlier" and "later" within hundreds of
# steps; from random ones a motion task did not begin to be learned in thousands. Longest wave, in frames:
_LONGEST_WAVE = 200

SIZES = {
    "vlf": VLFSizes(
        name="vlf", backbone="efficientnet_b0", reduction=32, token_dim=256, spatial_layers=1, spatial_heads=8,
        temporal_layers=4, temporal_heads=8, frames=8, height_px=224, width_px=224,
    ),
    "vlf-lite": VLFSizes(
        name="vlf-lite", backbone="resnet18", reduction=32, token_dim=256, spatial_layers=1, spatial_heads=8,
        temporal_layers=2, temporal_heads=8, frames=8, height_px=224, width_px=224,
    ),
    # Chosen by what a decision costs on a CPU, see docs/models.md: a stream pays for one more frame of its window in h
    # alone, which is so light that sixteen of them cost hardly more than eight.
    "vlf-mobile": VLFSizes(
        name="vlf-mobile", backbone="mobilenetv4_conv_small", reduction=32, token_step=4, token_dim=128,
        spatial_layers=1, spatial_heads=4, temporal_layers=2, temporal_heads=4, frames=16, height_px=224, width_px=224,
    ),
    # Small enough to be trained on two CPU cores, and to ship: a narrow, dense CNN quantises well.
    "vlf-tiny": VLFSizes(
        name="vlf-tiny", backbone="resnet10t", reduction=16, token_dim=96, spatial_layers=1, spatial_heads=4,
        temporal_layers=2, temporal_heads=4, frames=8, height_px=64, width_px=64, ffn_ratio=2,
        backbone_options={"channels": (32, 64, 128), "layers": (1, 1, 1), "stem_width": 16},
    ),
}  # fmt: skip


class VLF(Model):
    """The whole model; its two stages are public. The methods raise ShapeError for tensors of another shape or kind."""

    def __init__(self, sizes: VLFSizes, pretrained: bool = False):
        super().__init__()
        self.sizes = sizes
        self.frame = FrameStage(sizes, pretrained)
        self.clip = ClipStage(sizes)
        self.tokens, self.token_dim = self.frame.tokens, sizes.token_dim

    @property
    def heads(self) -> tuple[nn.Linear]:
        return (self.clip.mlp[-1],)

    @property
    def backbones(self) -> tuple[nn.Module]:
        return (self.frame.f.net,)

    @property
    def grid(self) -> tuple[int, int]:
        return self.frame.grid

    def forward(self, clips: Tensor) -> Tensor:
        return self.classify_tokens(self.encode(clips))

    def encode(self, clips: Tensor) -> Tensor:
        return self.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])  # (N, K, S, D)

    def mix(self, tokens: Tensor) -> Tensor:
        """h(z1, ..., zk)."""
        return self.clip.mix(tokens)

    def decide(self, mixed: Tensor) -> Tensor:
        """MLP on the mean."""
        return self.clip.decide(mixed)

    def encode_frames(self, images: Tensor) -> Tensor:
        """g(f(x)): images (N, H, W, 3) uint8 -> tokens (N, S, D) float32. A frame's tokens know nothing of time."""
        frame, _ = self.stages()
        return self.frame(checked(images, frame.inputs[0]))

    def classify_tokens(self, tokens: Tensor) -> Tensor:
        """MLP(h(z1, ..., zk)): tokens (N, K, S, D) float32, oldest frame first -> logits (N, C) float32."""
        _, clip = self.stages()
        return self.clip(checked(tokens, clip.inputs[0]))

    def stages(self) -> tuple[Stage, Stage]:
        """("frame": image -> tokens, "clip": tokens -> logits), sharing this model's parameters."""
        s, tokens, dim = self.sizes, self.frame.tokens, self.sizes.token_dim
        return (
            Stage(
                "frame",
                self.frame,
                (TensorSpec("image", "uint8", (BATCH_AXIS, s.height_px, s.width_px, 3)),),
                (TensorSpec("tokens", "float32", (BATCH_AXIS, tokens, dim)),),
            ),
            Stage(
                "clip",
                self.clip,
                (TensorSpec("tokens", "float32", (BATCH_AXIS, s.frames, tokens, dim)),),
                (TensorSpec("logits", "float32", (BATCH_AXIS, s.classes)),),
            ),
        )


class FrameStage(nn.Module):
    """g(f(x)): images (N, H, W, 3) uint8 BGR -> tokens (N, S, D) float32. Normalisation is part of it."""

    def __init__(self, sizes: VLFSizes, pretrained: bool = False):
        super().__init__()
        dim = sizes.token_dim
        self.f = Backbone(
            sizes.backbone, sizes.reduction, sizes.backbone_options, sizes.height_px, sizes.width_px, pretrained
        )
        # In pixel units: (x / 255 - mean) / std = (x - 255 mean) / (255 std), one subtraction and one division.
        self.register_buffer("mean", 255 * torch.tensor(self.f.mean).view(3, 1, 1))  # RGB
        self.register_buffer("std", 255 * torch.tensor(self.f.std).view(3, 1, 1))  # RGB
        stride, pool = (1, 1) if sizes.token_step == 1 else (2, sizes.token_step // 2)
        convolution = nn.Conv2d(self.f.channels, dim, kernel_size=3, stride=stride, padding=1, bias=False)
        self.project = nn.Sequential(convolution, nn.BatchNorm2d(dim))
        if pool > 1:  # a border that is narrower is the mean of what it has
            self.project.append(nn.AvgPool2d(pool, ceil_mode=True, count_include_pad=False))
        self.grid = rows, columns = tuple(-(-side // sizes.token_step) for side in self.f.map_size)
        self.tokens = rows * columns  # S
        self.row_position = nn.Parameter(torch.empty(rows, 1, dim))
        self.column_position = nn.Parameter(torch.empty(columns, dim))
        self.g = Transformer(dim, sizes.spatial_layers, sizes.spatial_heads, sizes.ffn_ratio, sizes.dropout)
        nn.init.kaiming_normal_(self.project[0].weight, mode="fan_out")
        nn.init.trunc_normal_(self.row_position, std=_POSITION_STD)
        nn.init.trunc_normal_(self.column_position, std=_POSITION_STD)

    def forward(self, images: Tensor) -> Tensor:
        return self.tokens_of(self.map_of(images))

    def map_of(self, images: Tensor) -> Tensor:
        """f(x): images (N, H, W, 3) uint8 -> (N, channels, h, w)."""
        x = images.float().permute(0, 3, 1, 2)  # (N, 3, H, W) BGR; the cast comes first, TensorRT asks for it
        return self.f((x.flip(1) - self.mean) / self.std)  # of (N, 3, H, W) RGB

    def tokens_of(self, maps: Tensor) -> Tensor:
        """g of the projected map: (N, channels, h, w) -> tokens (N, S, D)."""
        x = self.project(maps)  # (N, D, rows, columns)
        x = x.flatten(2).transpose(1, 2)  # (N, S, D), row by row
        return self.g(x + (self.row_position + self.column_position).flatten(0, 1))  # (N, S, D)


class ClipStage(nn.Module):
    """MLP(h(z)): tokens (N, K, S, D) float32 -> logits (N, C) float32.

    Time enters here and nowhere else: tokens of a frame may be kept and used at any place of a window.
    """

    def __init__(self, sizes: VLFSizes):
        super().__init__()
        dim = sizes.token_dim
        self.time_position = nn.Parameter(_sines(sizes.frames, dim).unsqueeze(1))  # (K, 1, D)
        self.h = Transformer(dim, sizes.temporal_layers, sizes.temporal_heads, sizes.ffn_ratio, sizes.dropout)
        self.mlp = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(sizes.dropout), nn.Linear(dim, sizes.classes)
        )
        self.mlp.apply(_init_linear)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mlp(self._mix(tokens).mean(dim=1))  # (N, K*S, D) -> (N, D) -> (N, C)

    def mix(self, tokens: Tensor) -> Tensor:
        """h(z): tokens (N, K, S, D), each knowing its own frame -> (N, K, S, D), each knowing all frames."""
        return self._mix(tokens).unflatten(1, tokens.shape[1:3])

    def decide(self, mixed: Tensor) -> Tensor:
        """MLP on the mean of what ``mix`` gave: (N, K, S, D) -> logits (N, C)."""
        return self.mlp(mixed.mean(dim=(1, 2)))

    def _mix(self, tokens: Tensor) -> Tensor:
        return self.h((tokens + self.time_position).flatten(1, 2))  # (N, K*S, D)


class Transformer(nn.Module):
    """Pre-norm encoder: tokens (N, T, D) -> tokens (N, T, D)."""

    def __init__(self, dim: int, layers: int, heads: int, ffn_ratio: int, dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, ffn_ratio * dim, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.apply(_init_linear)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)), with ReLU inside as in DETR: (N, T, D) -> (N, T, D)."""

    def __init__(self, dim: int, heads: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ffn_dim, dim))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attend(self.attention_norm(x)))
        return x + self.drop(self.ffn(self.ffn_norm(x)))

    def attend(self, x: Tensor) -> Tensor:
        """Multi-head self-attention: (N, T, D) -> (N, T, D)."""
        qkv = self.qkv(x).chunk(3, dim=2)  # 3 x (N, T, D)
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in qkv)  # (N, h, T, d), D = h*d
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)  # (N, h, T, d)
        return self.out(x.transpose(1, 2).flatten(2))  # (N, T, D)


def _sines(count: int, dim: int) -> Tensor:
    """(count, dim): sines, then cosines, of waves from 2 pi to ``_LONGEST_WAVE`` places (Vaswani et al., 2017)."""
    half = (dim + 1) // 2
    frequency = (2 * torch.pi / _LONGEST_WAVE) ** (torch.arange(half) / half)
    angle = torch.arange(count).unsqueeze(1) * frequency  # (count, half)
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :dim]


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
