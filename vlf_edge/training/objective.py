"""What training minimises: cross-entropy of classes and of made-up acts, the regression of motion that makes learning
start, distillation, hints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets import NO_LABEL
from ..errors import WeightsError
from ..models.model import Model
from ..models.weights import LoadedWeights, load_weights
from .loader import Batch

# Of the Video Transformer Network's code (Kozlov, Andronov and Gritsenko, arXiv 1905.08711).
DISTILLATION_WEIGHT = 0.4
TEMPERATURE = 8.0
_HIDDEN = 256  # channels of the head that sees two frames


class StudentOutput(NamedTuple):
    """What a student predicts for N clips. logits: (N, C). motion: (2, N, K-1, T), of its two heads, None without
    them. hints: (2, N, K, S, E), acts: (N, A), likewise. All float32."""

    logits: Tensor
    motion: Tensor | None
    hints: Tensor | None
    acts: Tensor | None = None

    def right(self, batch: Batch) -> Tensor:
        """How many clips are decided right: their class, or their act."""
        right = (self.logits.argmax(dim=1) == batch.labels).sum()
        return right if self.acts is None else right + (self.acts.argmax(dim=1) == batch.acts).sum()


class TeacherOutput(NamedTuple):
    """What the teachers predict for N clips. probabilities: (N, C) float32, softened by ``TEMPERATURE``. hints:
    (2, N, K, S, E) float32, the tokens that their g and their h give, those of a place side by side, each teacher's of
    mean 0 and variance 1; None if the student is to have none."""

    probabilities: Tensor
    hints: Tensor | None


class Student(nn.Module):
    """The model and, beside it, small heads that are needed to learn, not to recognise.

    Labels alone teach order very late. So two heads tell how things move from each frame to the next: one looks at the
    tokens of two frames, so that f and g learn to encode where things are; the other at what h makes of a frame, so
    that h learns to look at its neighbours. targets: how many values they tell (T), 0 for none.
    Two others tell the tokens of the teachers' g from those of g, and of the teachers' h from those of h. hints: how
    many channels these have (E), 0 for none. The last tells made-up acts apart by what the classifier reads. acts: how
    many (A), 0 for none.
    """

    def __init__(self, model: Model, targets: int, hints: int = 0, acts: int = 0):
        super().__init__()
        self.model = model
        dim, width = model.token_dim, model.tokens * model.token_dim
        self.pair_motion = self.motion = None
        if targets:
            hidden = nn.Linear(2 * width, _HIDDEN)
            self.pair_motion = nn.Sequential(hidden, nn.ReLU(), nn.Linear(_HIDDEN, targets))
            self.motion = nn.Linear(dim, targets)
        self.frame_hint = nn.Linear(dim, hints) if hints else None
        self.clip_hint = nn.Linear(dim, hints) if hints else None
        self.acts = nn.Sequential(nn.Linear(dim, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, acts)) if acts else None

    def forward(self, clips: Tensor) -> StudentOutput:
        """clips: (N, K, H, W, 3) uint8."""
        tokens = self.model.encode(clips)  # (N, K, S, D)
        mixed = self.model.mix(tokens)  # (N, K, S, D)
        logits = self.model.decide(mixed).float()  # (N, C)
        hints = None
        if self.frame_hint is not None:
            hints = torch.stack([self.frame_hint(tokens), self.clip_hint(mixed)]).float()  # (2, N, K, S, E)
        acts = None if self.acts is None else self.acts(mixed.mean(dim=(1, 2))).float()  # (N, A)
        return StudentOutput(logits, self._predict_motion(tokens, mixed), hints, acts)

    def _predict_motion(self, tokens: Tensor, mixed: Tensor) -> Tensor | None:
        """Of tokens (N, K, S, D) by themselves and as h mixes them, (2, N, K-1, T)."""
        if self.motion is None:
            return None
        flat = tokens.flatten(2)  # (N, K, S*D)
        pairs = torch.cat([flat[:, :-1], flat[:, 1:] - flat[:, :-1]], dim=2)  # (N, K-1, 2*S*D)
        return torch.stack([self.pair_motion(pairs), self.motion(mixed.mean(dim=2))[:, :-1]]).float()


class Teachers:
    """An ensemble to distil from: the mean of its softened probabilities, and, as hints, all its tokens."""

    def __init__(self, models: Sequence[Model], hint: bool = False):
        self._models, self._hint = [model.eval().requires_grad_(False) for model in models], hint

    @property
    def hints(self) -> int:
        """Channels of the hints (E), 0 if there are none."""
        return sum(model.token_dim for model in self._models) if self._hint else 0

    @torch.no_grad()
    def __call__(self, clips: Tensor) -> TeacherOutput:
        """clips: (N, K, H, W, 3) uint8 of the student's size."""
        probabilities, hints = [], []
        for model in self._models:
            tokens = model.encode(_resized(clips, model))  # (N, K, S, D)
            mixed = model.mix(tokens)  # (N, K, S, D)
            probabilities.append(F.softmax(model.decide(mixed).float() / TEMPERATURE, dim=1))
            if self._hint:
                both = torch.stack([tokens, mixed]).float()
                hints.append(F.layer_norm(both, both.shape[-1:]))
        return TeacherOutput(torch.stack(probabilities).mean(dim=0), torch.cat(hints, dim=-1) if hints else None)


@dataclass(frozen=True)
class Objective:
    """The loss of a step. label_smoothing: share of probability spread over all classes. motion_weight,
    motion_weight_end: of the regression at the start and the end of training. teachers: None for no distillation.
    hint_weight: of telling the teachers' tokens, after FitNets (Romero et al., arXiv 1412.6550), from the start of
    training; it falls to 0 towards its end."""

    label_smoothing: float = 0.0
    motion_weight: float = 4.0
    motion_weight_end: float = 0.3
    teachers: Teachers | None = None
    hint_weight: float = 0.0

    def __call__(self, batch: Batch, output: StudentOutput, progress: float) -> Tensor:
        """Scalar loss of the student's output for the batch. progress: 0 to 1, of all."""
        loss = self._classification(output, batch)
        if output.motion is not None and batch.targets is not None:
            weight = self.motion_weight + progress * (self.motion_weight_end - self.motion_weight)
            off = F.smooth_l1_loss(output.motion, batch.targets.expand_as(output.motion), reduction="none")
            loss = loss + weight * 2 * (off.mean(dim=(0, 2, 3)) * (batch.labels != NO_LABEL)).mean()
        if self.teachers is not None:
            teacher_output = self.teachers(batch.clips)
            loss = loss + DISTILLATION_WEIGHT * distillation(output.logits, teacher_output.probabilities)
            if output.hints is not None:
                loss = loss + self.hint_weight * (1 - progress) * 2 * F.mse_loss(output.hints, teacher_output.hints)
        return loss

    def _classification(self, output: StudentOutput, batch: Batch) -> Tensor:
        """Mean over the clips of the cross-entropy of their class, or of their act."""
        if output.acts is None:
            return F.cross_entropy(output.logits, batch.labels, label_smoothing=self.label_smoothing)
        told = {"ignore_index": NO_LABEL, "label_smoothing": self.label_smoothing, "reduction": "sum"}
        losses = (F.cross_entropy(*of, **told) for of in ((output.logits, batch.labels), (output.acts, batch.acts)))
        return sum(losses) / len(batch)


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) T^2 (Hinton et al., arXiv 1503.02531). logits (N, C) of the student; teacher (N, C):
    probabilities softened by ``TEMPERATURE``."""
    student = F.log_softmax(logits / TEMPERATURE, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean") * TEMPERATURE**2


def load_teachers(
    paths: Sequence[str], student: Model, labels: Sequence[str], device: torch.device, hint: bool = False
) -> Teachers | None:
    """None for no paths. hint: give the student their tokens too. Raises WeightsError for a teacher of other classes
    or of another number of frames, and for one that divides an image into other tokens where it is to give hints."""
    loaded = [(path, load_weights(path)) for path in paths]
    for path, teacher in loaded:
        _check_teacher(path, teacher, student, tuple(labels))
        if hint:
            _check_grid(path, teacher.model, student)
    models = [teacher.model.to(device, memory_format=torch.channels_last) for _, teacher in loaded]
    return Teachers(models, hint) if models else None


def _check_teacher(path: str, teacher: LoadedWeights, student: Model, labels: tuple[str, ...]) -> None:
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


def _check_grid(path: str, teacher: Model, student: Model) -> None:
    theirs, own = (f"{rows} x {columns}" for rows, columns in (teacher.grid, student.grid))
    if theirs != own:
        raise WeightsError(
            f"the teacher {path} makes {theirs} tokens of an image, the student {own}: hints need the same; "
            "choose another --size, or leave out --hint-weight"
        )


def _resized(clips: Tensor, model: Model) -> Tensor:
    """The same clips in the size of that model's images."""
    size = (model.sizes.height_px, model.sizes.width_px)
    if clips.shape[2:4] == size:
        return clips
    images = clips.flatten(0, 1).permute(0, 3, 1, 2).float()  # (N*K, 3, H, W)
    images = F.interpolate(images, size, mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8)
    return images.permute(0, 2, 3, 1).unflatten(0, clips.shape[:2])
