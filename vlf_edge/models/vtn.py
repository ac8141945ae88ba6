"""Video Transformer Network (Kozlov, Andronov and Gritsenko, arXiv 1905.08711).

    vector of a frame = mean over the CNN's last map, brought to D = 512 channels
    decoder           = positions, then 4 layers of attention and feed-forward over the K vectors
    logits            = mean over the frames of fc(decoder's output)

Where text and code differ, the code is followed (openvinotoolkit/training_extensions, action_recognition): attention is
scaled by sqrt(D), not by sqrt(D / heads); queries, keys and values have no bias; no projection follows the heads; the
layers are post-norm with a layer norm of their own. Open Model Zoo ships it without that norm: ``layer_norm=False``.

"rgb" sees images, "diff" the difference of each image to the one before, "two-stream" both, and averages the logits.
Of a window's K frames "diff" has K - 1 differences.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import VlfError
from ..types import TensorSpec
from .backbone import Encoder
from .model import Model
from .sizes import Sizes
from .stage import BATCH_AXIS, Stage

MODALITIES = ("rgb", "diff", "two-stream")


@dataclass(frozen=True, kw_only=True)
class VTNSizes(Sizes):
    """Everything that defines a VTN but its weights and labels.

    token_dim: D. layers, heads: of the decoder. ffn_ratio: hidden channels of its feed-forward networks, in D.
    layer_norm: whether there is one after each half of a layer. modality: one of MODALITIES.
    """

    token_dim: int = 512
    layers: int = 4
    heads: int = 8
    ffn_ratio: int = 2
    layer_norm: bool = True
    modality: str = "rgb"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token_dim % self.heads:
            raise VlfError(f"token_dim {self.token_dim} does not divide into {self.heads} heads")
        if self.modality not in MODALITIES:
            raise VlfError(f"modality is {self.modality!r}, expected one of {', '.join(MODALITIES)}")
        if self.modality != "rgb" and self.frames < 2:
            raise VlfError(f"frames is {self.frames}; a difference needs 2 or more")

    def build(self, pretrained: bool = False) -> VTN:
        return VTN(self, pretrained)


def _sizes(name: str, backbone: str, modality: str = "rgb") -> VTNSizes:
    return VTNSizes(name=name, backbone=backbone, frames=16, height_px=224, width_px=224, modality=modality)


SIZES = {
    "vtn": _sizes("vtn", "resnet34"),
    "vtn-mobilenetv2": _sizes("vtn-mobilenetv2", "mobilenetv2_100"),
    "vtn-diff": _sizes("vtn-diff", "resnet34", "diff"),
    "vtn-two-stream": _sizes("vtn-two-stream", "resnet34", "two-stream"),
}


class VTN(Model):
    """Two stages: CNN and projection on a frame (differences: on it and on the one before, carried as state), and the
    decoder on a window of their vectors.

    A frame's vectors (N, S, D): one of the image, of the difference, or both in this order. The first difference of a
    window is to a frame outside of it, and is left out.
    """

    def __init__(self, sizes: VTNSizes, pretrained: bool = False):
        super().__init__()
        self.sizes = sizes
        self.frame = FrameStage(sizes, pretrained)
        self.clip = ClipStage(sizes)
        self.tokens, self.token_dim = len(self.frame.encoders), sizes.token_dim

    @property
    def heads(self) -> tuple[nn.Linear, ...]:
        return tuple(decoder.fc for decoder in self.clip.decoders.values())

    @property
    def backbones(self) -> tuple[nn.Module, ...]:
        return tuple(projected.encoder.net for projected in self.frame.encoders.values())

    def encode(self, clips: Tensor) -> Tensor:
        images = clips.float()
        before = torch.cat([torch.zeros_like(images[:, :1]), images[:, :-1]], dim=1)  # as a stream begins
        vectors = self.frame.encode(images.flatten(0, 1), before.flatten(0, 1))  # (N*K, S, D)
        return vectors.unflatten(0, clips.shape[:2])  # (N, K, S, D)

    def mix(self, tokens: Tensor) -> Tensor:
        return self.clip.mix(tokens)

    def decide(self, mixed: Tensor) -> Tensor:
        return self.clip.decide(mixed)

    def stages(self) -> tuple[Stage, Stage]:
        s = self.sizes
        tokens = (self.tokens, s.token_dim)
        image = TensorSpec("image", "uint8", (BATCH_AXIS, s.height_px, s.width_px, 3))
        given = TensorSpec("tokens", "float32", (BATCH_AXIS, *tokens))
        clip = Stage(
            "clip",
            self.clip,
            (TensorSpec("tokens", "float32", (BATCH_AXIS, s.frames, *tokens)),),
            (TensorSpec("logits", "float32", (BATCH_AXIS, s.classes)),),
        )
        if s.modality == "rgb":
            return Stage("frame", self.frame, (image,), (given,)), clip
        before, following = (TensorSpec(name, "float32", image.shape) for name in ("image_before", "this_image"))
        state = {before.name: following.name}
        return Stage("frame", _WithState(self.frame), (image, before), (given, following), state), clip


class FrameStage(nn.Module):
    """Images (N, H, W, 3) uint8 BGR -> vectors (N, S, D) float32."""

    def __init__(self, sizes: VTNSizes, pretrained: bool):
        super().__init__()
        names = ("rgb", "diff") if sizes.modality == "two-stream" else (sizes.modality,)
        self.encoders = nn.ModuleDict({name: _Projected(sizes, pretrained) for name in names})

    def forward(self, images: Tensor) -> Tensor:
        return self.encode(images, None)

    def encode(self, images: Tensor, before: Tensor | None) -> Tensor:
        """before: the images that came before these, (N, H, W, 3) float32, where differences are looked at."""
        vectors = []
        for name, encoder in self.encoders.items():
            seen = encoder.normalise(images)
            # Normalised, so that the mean goes out of the difference and the scale stays.
            vectors.append(encoder(seen - encoder.normalise(before) if name == "diff" else seen))
        return torch.stack(vectors, dim=1)


class _Projected(nn.Module):
    """Normalised images (N, 3, H, W) -> vectors (N, D)."""

    def __init__(self, sizes: VTNSizes, pretrained: bool):
        super().__init__()
        self.encoder = Encoder(sizes.backbone, sizes.backbone_options, sizes.height_px, sizes.width_px, pretrained)
        same = self.encoder.channels == sizes.token_dim
        self.reduce = nn.Identity() if same else nn.Linear(self.encoder.channels, sizes.token_dim)

    @property
    def normalise(self) -> nn.Module:
        return self.encoder.normalise

    def forward(self, normalised: Tensor) -> Tensor:
        # A 1x1 convolution and a mean over the map commute: one multiplication of a vector, not of every place.
        return self.reduce(self.encoder.pool(normalised))


class _WithState(nn.Module):
    def __init__(self, frame: FrameStage):
        super().__init__()
        self.frame = frame

    def forward(self, image: Tensor, image_before: Tensor) -> tuple[Tensor, Tensor]:
        image = image.float()
        return self.frame.encode(image, image_before), image + 0.0  # an output of its own, not the input again


class ClipStage(nn.Module):
    """Vectors (N, K, S, D) -> logits (N, C), the mean over the modalities."""

    def __init__(self, sizes: VTNSizes):
        super().__init__()
        names = ("rgb", "diff") if sizes.modality == "two-stream" else (sizes.modality,)
        self.decoders = nn.ModuleDict({name: Decoder(sizes, sizes.frames - (name == "diff")) for name in names})

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decide(self.mix(tokens))

    def mix(self, tokens: Tensor) -> Tensor:
        mixed = [
            torch.cat([x[:, :1], decoder.mix(x[:, 1:])], dim=1) if name == "diff" else decoder.mix(x)
            for (name, decoder), x in zip(self.decoders.items(), tokens.unbind(2))
        ]
        return torch.stack(mixed, dim=2)

    def decide(self, mixed: Tensor) -> Tensor:
        logits = [
            decoder.decide(x[:, 1:] if name == "diff" else x)
            for (name, decoder), x in zip(self.decoders.items(), mixed.unbind(2))
        ]
        # Of one modality as its layer gives them: what that layer reads are then the model's features.
        return torch.stack(logits).mean(dim=0) if len(logits) > 1 else logits[0]


class Decoder(nn.Module):
    """Vectors (N, T, D) -> logits (N, C)."""

    def __init__(self, sizes: VTNSizes, count: int):
        super().__init__()
        dim = sizes.token_dim
        self.position = nn.Parameter(_positions(count, dim))  # (T, D)
        self.layers = nn.ModuleList(
            DecoderLayer(dim, sizes.heads, sizes.ffn_ratio * dim, sizes.dropout, sizes.layer_norm)
            for _ in range(sizes.layers)
        )
        self.fc = nn.Linear(dim, sizes.classes)
        nn.init.normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)

    def mix(self, x: Tensor) -> Tensor:
        x = x + self.position
        for layer in self.layers:
            x = layer(x)
        return x

    def decide(self, mixed: Tensor) -> Tensor:
        return self.fc(mixed.mean(dim=1))  # the mean of fc of each, the layer being linear


class DecoderLayer(nn.Module):
    """norm(x + attention(x)), then norm(x + ffn(x)): (N, T, D) -> (N, T, D)."""

    def __init__(self, dim: int, heads: int, ffn_dim: int, dropout: float, layer_norm: bool):
        super().__init__()
        self.heads, self.scale = heads, dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attention_norm = Norm(dim) if layer_norm else nn.Identity()
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.ReLU(), nn.Linear(ffn_dim, dim))
        self.ffn_norm = Norm(dim) if layer_norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        nn.init.xavier_normal_(self.qkv.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention_norm(x + self.drop(self.attend(x)))
        return self.ffn_norm(x + self.drop(self.ffn(x)))

    def attend(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).chunk(3, dim=2)  # 3 x (N, T, D)
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in qkv)  # (N, h, T, d), D = h*d
        weights = (q * self.scale @ k.transpose(2, 3)).softmax(dim=-1)  # (N, h, T, T)
        return (self.drop(weights) @ v).transpose(1, 2).flatten(2)  # (N, T, D)


class Norm(nn.Module):
    """The layer norm of the published code: the deviation of a sample (n - 1), and eps outside of the root."""

    def __init__(self, dim: int, eps: float = 1e-3):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        deviation = (centred.square().sum(dim=-1, keepdim=True) / (x.shape[-1] - 1)).sqrt()
        return centred / (deviation + self.eps) * self.weight + self.bias


def _positions(count: int, dim: int) -> Tensor:
    """(count, dim): sines and cosines by turns; the first row is zeros, as in the published code."""
    place, channel = torch.arange(count).unsqueeze(1), torch.arange(dim)
    angle = place / 10_000 ** (2 * torch.div(channel, 2, rounding_mode="floor") / dim)  # (count, dim)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()) * (place > 0)
