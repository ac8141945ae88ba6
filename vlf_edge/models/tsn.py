"""Temporal Segment Networks (Wang et al., arXiv 1608.00859) with the average as their consensus.

A 2-D CNN looks at each frame by itself; the frames' opinions are averaged. Nothing in it knows the order of frames.

    logits = mean over k of fc(cnn(xk)) = fc(mean over k of cnn(xk))

The second form is what is computed: a frame is then one vector, and the last layer runs once a decision.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..types import TensorSpec
from .backbone import Encoder
from .model import Model
from .sizes import Sizes
from .stage import BATCH_AXIS, Stage


@dataclass(frozen=True, kw_only=True)
class TSNSizes(Sizes):
    """Everything that defines a TSN but its weights and labels."""

    def build(self, pretrained: bool = False) -> TSN:
        return TSN(self, pretrained)


SIZES = {
    "tsn": TSNSizes(name="tsn", backbone="resnet50", frames=8, height_px=224, width_px=224, dropout=0.5),
    "tsn-mobilenetv2": TSNSizes(
        name="tsn-mobilenetv2", backbone="mobilenetv2_100", frames=8, height_px=224, width_px=224, dropout=0.5
    ),
}


class TSN(Model):
    """Two stages: the CNN on a frame, and the last layer on the mean of the window's vectors."""

    tokens = 1

    def __init__(self, sizes: Sizes, pretrained: bool = False):
        super().__init__()
        self.sizes = sizes
        self.frame = Encoder(sizes.backbone, sizes.backbone_options, sizes.height_px, sizes.width_px, pretrained)
        self.token_dim = self.frame.channels
        self.clip = Consensus(self.token_dim, sizes.classes, sizes.dropout)

    @property
    def heads(self) -> tuple[nn.Linear]:
        return (self.clip.fc,)

    @property
    def backbones(self) -> tuple[nn.Module]:
        return (self.frame.net,)

    def encode(self, clips: Tensor) -> Tensor:
        vectors = self.frame(clips.flatten(0, 1))  # (N*K, D)
        return vectors.unflatten(0, clips.shape[:2]).unsqueeze(2)  # (N, K, 1, D)

    def decide(self, mixed: Tensor) -> Tensor:
        return self.clip(mixed.squeeze(2))

    def stages(self) -> tuple[Stage, Stage]:
        s, channels = self.sizes, self.frame.channels
        return (
            Stage(
                "frame",
                self.frame,
                (TensorSpec("image", "uint8", (BATCH_AXIS, s.height_px, s.width_px, 3)),),
                (TensorSpec("tokens", "float32", (BATCH_AXIS, channels)),),
            ),
            Stage(
                "clip",
                self.clip,
                (TensorSpec("tokens", "float32", (BATCH_AXIS, s.frames, channels)),),
                (TensorSpec("logits", "float32", (BATCH_AXIS, s.classes)),),
            ),
        )


class Consensus(nn.Module):
    """Vectors of K frames (N, K, D) -> logits (N, C)."""

    def __init__(self, channels: int, classes: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, classes)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.fc(self.dropout(vectors.mean(dim=1)))
