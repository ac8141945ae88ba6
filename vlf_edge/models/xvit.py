"""X-ViT (Bulat, Perez-Rua, Sudhakaran, Martinez and Tzimiropoulos, arXiv 2106.05968).

A vision transformer on each frame, whose attention takes its keys and values in part from the frames beside: of their
channels, a share comes from frame t+1 and as large a one from t-1, zeros at the ends of the clip. Temporal attention
over the frames' class tokens decides. One stage, whole clip.

Where text and code differ (1adrianb/video-transformers), ``split`` chooses: "code" moves the first channels of all
heads laid side by side, so whole heads look at a neighbour; "paper" (equation 9) moves some channels of every head.

``compat`` gives what the released configurations of Kinetics run, not what they say: shifts within segments of 8
frames, so that of 16 frames the first 8 and the last 8 know of each other only in the end. The 8 rows of positions in
time that the code has at any number of frames are no other model: they are loaded as rows that repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import VlfError
from ..types import TensorSpec
from .model import Model, Normalise
from .sizes import Sizes
from .stage import BATCH_AXIS, Stage

SPLITS = ("code", "paper")
_SEGMENT = 8  # frames


@dataclass(frozen=True, kw_only=True)
class XViTSizes(Sizes):
    """Everything that defines an X-ViT but its weights and labels.

    patch_px: side of a patch. token_dim: D. layers, heads: of the frames' transformer; the temporal one has a layer.
    share: one channel of so many comes from each neighbour. split: one of SPLITS. compat: see above.
    """

    backbone: str = "vit"
    patch_px: int = 16
    token_dim: int = 768
    layers: int = 12
    heads: int = 12
    share: int = 4
    split: str = "code"
    compat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token_dim % self.heads:
            raise VlfError(f"token_dim {self.token_dim} does not divide into {self.heads} heads")
        if self.height_px % self.patch_px or self.width_px % self.patch_px:
            raise VlfError(f"{self.width_px}x{self.height_px} px do not divide into patches of {self.patch_px} px")
        if self.split not in SPLITS:
            raise VlfError(f"split is {self.split!r}, expected one of {', '.join(SPLITS)}")
        if self.share < 2:
            raise VlfError(f"share is {self.share}, expected 2 or more: both neighbours give that share")
        if self.compat and self.frames % _SEGMENT:
            raise VlfError(f"compat needs frames in steps of {_SEGMENT}, got {self.frames}")

    def build(self, pretrained: bool = False) -> XViT:
        if pretrained:
            raise VlfError("xvit has no weights to fetch; start from a file of the authors with --weights")
        return XViT(self)


def _sizes(name: str, dim: int = 768, heads: int = 12, frames: int = 8, **more: Any) -> XViTSizes:
    return XViTSizes(
        name=name, frames=frames, height_px=224, width_px=224, token_dim=dim, heads=heads, dropout=0.5, **more
    )


SIZES = {
    "xvit": _sizes("xvit"),
    "xvit-16": _sizes("xvit-16", frames=16),  # as trained on Something-Something
    "xvit-kinetics": _sizes("xvit-kinetics", frames=16, share=8, compat=True),  # as on Kinetics
    "xvit-small": _sizes("xvit-small", 384, 6),
    "xvit-tiny": _sizes("xvit-tiny", 192, 3),
}


class XViT(Model):
    """One stage: a window of images -> logits."""

    tokens = 1
    backbones = ()  # the transformer is its own

    def __init__(self, sizes: XViTSizes):
        super().__init__()
        self.sizes = sizes
        self.token_dim = dim = sizes.token_dim
        s = sizes
        self.normalise = Normalise((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.patches = nn.Conv2d(3, dim, s.patch_px, s.patch_px)
        count = (s.height_px // s.patch_px) * (s.width_px // s.patch_px)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.zeros(1, count + 1, dim))
        self.time_position = nn.Parameter(torch.zeros(s.frames, 1, dim))  # (K, 1, D)
        shift = Shift(s.heads, _SEGMENT if s.compat else s.frames, s.share, s.split)
        self.layers = nn.ModuleList(Layer(dim, s.heads, 1e-6, shift) for _ in range(s.layers))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.clip = TemporalHead(dim, s.heads, s.classes, s.dropout)
        self.apply(_init)
        for parameter in (self.class_token, self.position):
            nn.init.trunc_normal_(parameter, std=0.02)

    @property
    def heads(self) -> tuple[nn.Linear]:
        return (self.clip.mlp[-1],)

    def encode(self, clips: Tensor) -> Tensor:
        frames = clips.shape[1]
        x = self.patches(self.normalise(clips.float().flatten(0, 1)))  # (N*K, D, h, w)
        x = x.flatten(2).transpose(1, 2)  # (N*K, h*w, D)
        x = _led_by(self.class_token, x) + self.position  # (N*K, 1 + h*w, D)
        x = (x.unflatten(0, (-1, frames)) + self.time_position).flatten(0, 1)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)[:, :1].unflatten(0, (-1, frames))  # (N, K, 1, D), the class tokens

    def decide(self, mixed: Tensor) -> Tensor:
        return self.clip(mixed.squeeze(2))

    def stages(self) -> tuple[Stage]:
        s = self.sizes
        clip = TensorSpec("clip", "uint8", (BATCH_AXIS, s.frames, s.height_px, s.width_px, 3))
        return (Stage("clip", self, (clip,), (TensorSpec("logits", "float32", (BATCH_AXIS, s.classes)),)),)


class Shift(nn.Module):
    """Keys or values (N*K, heads, T, d): some channels are those of the same place in the next and the last frame."""

    def __init__(self, heads: int, segment: int, share: int, split: str):
        super().__init__()
        self.heads, self.segment, self.share, self.split = heads, segment, share, split

    def forward(self, x: Tensor) -> Tensor:
        clip = x.unflatten(0, (-1, self.segment))  # (N, K, heads, T, d)
        if self.split == "code":  # channels of all heads side by side
            clip = clip.transpose(3, 4).flatten(2, 3)  # (N, K, heads*d, T)
            return self._moved(clip, dim=2).unflatten(2, (self.heads, -1)).transpose(3, 4).flatten(0, 1)
        return self._moved(clip, dim=4).flatten(0, 1)

    def _moved(self, clip: Tensor, dim: int) -> Tensor:
        channels = clip.shape[dim]
        moved = channels // self.share
        after, before, rest = clip.split([moved, moved, channels - 2 * moved], dim=dim)
        zeros = torch.zeros_like(after[:, :1])
        return torch.cat([torch.cat([after[:, 1:], zeros], 1), torch.cat([zeros, before[:, :-1]], 1), rest], dim=dim)


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): (N, T, D) -> (N, T, D). shift: of keys and values."""

    def __init__(self, dim: int, heads: int, eps: float, shift: nn.Module | None = None, qkv_bias: bool = True):
        super().__init__()
        self.heads = heads
        self.shift = nn.Identity() if shift is None else shift
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=qkv_bias), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(x)).chunk(3, dim=2)  # 3 x (N, T, D)
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in qkv)  # (N, h, T, d)
        mixed = F.scaled_dot_product_attention(q, self.shift(k), self.shift(v))  # (N, h, T, d)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class TemporalHead(nn.Module):
    """The frames' class tokens (N, K, D) -> logits (N, C): attention with a token of its own, which is decided upon."""

    def __init__(self, dim: int, heads: int, classes: int, dropout: float):
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.layer = Layer(dim, heads, 1e-5, qkv_bias=False)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(dim, classes)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mlp(self.layer(_led_by(self.class_token, tokens))[:, 0])


def _led_by(token: Tensor, tokens: Tensor) -> Tensor:
    """(1, 1, D) before each of (N, T, D), without asking for N, which an exported graph would take from its input."""
    return F.pad(tokens, (0, 0, 1, 0)) + F.pad(token, (0, 0, 0, tokens.shape[1]))


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
