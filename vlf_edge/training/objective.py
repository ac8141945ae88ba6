"""What training minimises: cross-entropy, the regression of motion that makes learning start, and distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import WeightsError
from ..models.vlf import VLF
from ..models.weights import LoadedWeights, load_weights
from .loader import Batch

# Of the Video Transformer Network's code (Kozlov, Andronov and Gritsenko, arXiv 1905.08711).
DISTILLATION_WEIGHT = 0.4
TEMPERATURE = 8.0
_HIDDEN = 256  # channels of the head that sees two frames


class Learner(nn.Module):
    """The model and, beside it, two small heads that tell how things move from each frame to the next.

    Labels alone teach order very late. One head looks at the tokens of two frames, so that f and g learn to encode
    where things are; the other at what h makes of a frame, so that h learns to look at its neighbours. Both are needed
    to learn, not to recognise. targets: how many values they tell (T), 0 for none.
    """

    def __init__(self, model: VLF, targets: int):
        super().__init__()
        self.model = model
        dim, width = model.sizes.token_dim, model.frame.tokens * model.sizes.token_dim
        self.pair_motion = self.motion = None
        if targets:
            hidden = nn.Linear(2 * width, _HIDDEN)
            self.pair_motion = nn.Sequential(hidden, nn.ReLU(), nn.Linear(_HIDDEN, targets))
            self.motion = nn.Linear(dim, targets)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor | None]:
        """clips (N, K, H, W, 3) uint8 -> logits (N, C) and motion (2, N, K-1, T) as the two heads tell it, None
        without them; both float32."""
        tokens = self.model.encode_frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])  # (N, K, S, D)
        mixed = self.model.clip.mix(tokens)  # (N, K, S, D)
        logits = self.model.clip.mlp(mixed.mean(dim=(1, 2))).float()  # (N, C)
        if self.motion is None:
            return logits, None
        flat = tokens.flatten(2)  # (N, K, S*D)
        pairs = torch.cat([flat[:, :-1], flat[:, 1:] - flat[:, :-1]], dim=2)  # (N, K-1, 2*S*D)
        told = torch.stack([self.pair_motion(pairs), self.motion(mixed.mean(dim=2))[:, :-1]])  # (2, N, K-1, T)
        return logits, told.float()


class Teachers:
    """An ensemble to distil from: the mean of its softened probabilities."""

    def __init__(self, models: Sequence[VLF]):
        self._models = [model.eval().requires_grad_(False) for model in models]

    @torch.no_grad()
    def probabilities(self, clips: Tensor) -> Tensor:
        """clips (N, K, H, W, 3) uint8 of the student's size -> (N, C) float32, softened by ``TEMPERATURE``."""
        logits = [model(_resized(clips, model)).float() for model in self._models]
        return torch.stack([F.softmax(one / TEMPERATURE, dim=1) for one in logits]).mean(dim=0)


@dataclass(frozen=True)
class Objective:
    """The loss of a step. label_smoothing: share of probability spread over all classes. motion_weight,
    motion_weight_end: of the regression at the start and the end of training. teachers: None for no distillation."""

    label_smoothing: float = 0.0
    motion_weight: float = 4.0
    motion_weight_end: float = 0.3
    teachers: Teachers | None = None

    def __call__(self, batch: Batch, logits: Tensor, motion: Tensor | None, progress: float) -> Tensor:
        """Scalar loss. logits (N, C) and motion (2, N, K-1, T) as ``Learner`` gives them. progress: 0 to 1, of all."""
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        if motion is not None and batch.targets is not None:
            weight = self.motion_weight + progress * (self.motion_weight_end - self.motion_weight)
            loss = loss + weight * 2 * F.smooth_l1_loss(motion, batch.targets.expand_as(motion))
        if self.teachers is not None:
            loss = loss + DISTILLATION_WEIGHT * distillation(logits, self.teachers.probabilities(batch.clips))
        return loss


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) T^2 (Hinton et al., arXiv 1503.02531). logits (N, C) of the student; teacher (N, C):
    probabilities softened by ``TEMPERATURE``."""
    student = F.log_softmax(logits / TEMPERATURE, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean") * TEMPERATURE**2


def load_teachers(paths: Sequence[str], student: VLF, labels: Sequence[str], device: torch.device) -> Teachers | None:
    """None for no paths. Raises WeightsError for a teacher of other classes or of another number of frames."""
    loaded = [(path, load_weights(path)) for path in paths]
    for path, teacher in loaded:
        _check_teacher(path, teacher, student, tuple(labels))
    models = [teacher.model.to(device, memory_format=torch.channels_last) for _, teacher in loaded]
    return Teachers(models) if models else None


def _check_teacher(path: str, teacher: LoadedWeights, student: VLF, labels: tuple[str, ...]) -> None:
    if teacher.labels != labels:
        differ = sorted(set(teacher.labels) ^ set(labels))
        how = f"they differ in {', '.join(differ[:5])}" if differ else "they are in another order"
        raise WeightsError(
            f"the teacher {path} knows {len(teacher.labels)} classes, the data has {len(labels)}: {how}; "
            "train the teacher on the same data"
        )
    frames = teacher.model.sizes.frames
    if frames != student.sizes.frames:
        raise WeightsError(
            f"the teacher {path} takes {frames} frames, the student {student.sizes.frames}; both must see the same"
        )


def _resized(clips: Tensor, model: VLF) -> Tensor:
    """The same clips in the size of that model's images."""
    size = (model.sizes.height_px, model.sizes.width_px)
    if clips.shape[2:4] == size:
        return clips
    images = clips.flatten(0, 1).permute(0, 3, 1, 2).float()  # (N*K, 3, H, W)
    images = F.interpolate(images, size, mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8)
    return images.permute(0, 2, 3, 1).unflatten(0, clips.shape[:2])
