"""Everything a training run is asked for, in one frozen value: it defines the run and is recorded in its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import VlfError

DEFAULT_MODEL = "vlf-tiny"
DEFAULT_LR = 1e-3
DEFAULT_QAT_LR = 2e-4
# Fewer steps between two looks at the validation set teach nothing: small data is gone through several times.
LEAST_STEPS_PER_EPOCH = 10
DEFAULT_PATIENCE = 8
_LARGEST_SEED = 2**32 - 1
# These may differ between a run and its continuation: they do not change what is computed (compile: but for rounding).
_FREE = frozenset({"out", "half", "workers", "max_minutes", "compile"})


@dataclass(frozen=True)
class Settings:
    """One training run.

    data: what ``datasets.open_dataset`` takes; val: other data to validate on (default: the data's own "val" split);
    nothing is held out of ``data`` then.
    model, backbone, size_px, frames, pretrained: a model made anew, as ``models.create_model`` takes them (default
    model: vlf-tiny).
    start: a weights file to start from instead; its sizes are kept, its head too if the classes are the same.
    out: the best weights' .safetensors file; what else a run writes is named after it. half: store weights as float16.
    epochs; batch: clips of a step, over all processes; clips_per_epoch: clips that make an epoch (default: as many
    as the data set has, and ``LEAST_STEPS_PER_EPOCH`` steps of them at least); patience: stop after so many epochs
    without better validation (0: never; default: 8 from a weights file, else 0); val_clips: validate on at most so
    many. span_s: seconds of a window (default: the data's).
    lr: highest learning rate (default: 1e-3, with fake quantisation 2e-4), reached after the share ``warmup`` of all
    steps and falling to zero by a cosine. weight_decay: not on norms, biases and positions. clip_norm: of the gradient.
    label_smoothing: share of probability spread over all classes. ema_decay: of the averaged weights.
    motion_weight, motion_weight_end: of the regression of motion, at the start and at the end; of no effect on data
    that does not know its motion.
    teachers: weights files to distil from. hint_weight: of telling their tokens, at the start; it falls to 0.
    qat: train with fake quantisation, from ``start``. seed.
    workers: processes that read clips, for each process that trains (0: none; default: one a core, at most 16).
    compile: have torch.compile translate the model: a minute or more at the start, then faster steps.
    max_minutes: stop after the step under way by then.
    Raises VlfError for values that make no run.
    """

    data: str
    out: str
    half: bool = False
    val: str | None = None
    model: str | None = None
    backbone: str | None = None
    size_px: int | None = None
    frames: int | None = None
    pretrained: bool = False
    start: str | None = None
    epochs: int = 20
    batch: int = 32
    clips_per_epoch: int | None = None
    patience: int | None = None
    val_clips: int | None = None
    span_s: float | None = None
    lr: float | None = None
    warmup: float = 0.05
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    label_smoothing: float = 0.1
    ema_decay: float = 0.999
    motion_weight: float = 4.0
    motion_weight_end: float = 0.3
    teachers: tuple[str, ...] = ()
    hint_weight: float = 0.0
    qat: bool = False
    seed: int = 0
    workers: int | None = None
    max_minutes: float | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("size_px", "frames", "epochs", "batch", "clips_per_epoch", "val_clips"):
            _check(name, getattr(self, name), 1, None)
        for name in ("weight_decay", "motion_weight", "motion_weight_end", "hint_weight", "workers", "patience"):
            _check(name, getattr(self, name), 0, None)
        _check("seed", self.seed, 0, _LARGEST_SEED)
        for name in ("span_s", "clip_norm", "lr", "max_minutes"):
            _check(name, getattr(self, name), 1e-9, None)
        for name in ("warmup", "label_smoothing", "ema_decay"):
            _check(name, getattr(self, name), 0, 1 - 1e-9)
        new = {"--backbone": self.backbone, "--size": self.size_px, "--frames": self.frames}
        asked = [flag for flag, value in {**new, "--pretrained": self.pretrained}.items() if value]
        if self.start and asked:
            raise VlfError(f"--from {self.start} brings a model as it is; leave out {' and '.join(asked)}, or --from")
        if self.hint_weight and not self.teachers:
            raise VlfError(f"--hint-weight {self.hint_weight:g} is of the teachers' tokens; name some with --teacher")
        if self.qat and not self.start:
            raise VlfError("--qat fine-tunes a trained model; name its weights with --from WEIGHTS")

    @property
    def name(self) -> str:
        """Of the model, where it is made anew."""
        return self.model or DEFAULT_MODEL

    @property
    def inputs(self) -> tuple[str, ...]:
        """The files and folders that the run reads, as they were named."""
        return tuple(filter(None, (self.data, self.val, self.start, *self.teachers)))

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up."""
        return self.lr or (DEFAULT_QAT_LR if self.qat else DEFAULT_LR)

    @property
    def most_idle_epochs(self) -> int:
        """Epochs without better validation that end the run; 0: none do. A model made anew may stay at chance for long
        before it begins to learn."""
        return self.patience if self.patience is not None else DEFAULT_PATIENCE if self.start else 0

    def steps_per_epoch(self, clips: int) -> int:
        """Of a data set of so many clips."""
        asked = self.clips_per_epoch or max(clips, LEAST_STEPS_PER_EPOCH * self.batch)
        return max(1, round(asked / self.batch))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values of all that changes the result."""
        values = {name: value for name, value in asdict(self).items() if name not in _FREE}
        return {**values, "teachers": list(self.teachers), "lr": self.peak_lr, "patience": self.most_idle_epochs}


def _check(name: str, value: float | None, least: float, most: float | None) -> None:
    if value is None or (least <= value and (most is None or value <= most)):  # refuses NaN too
        return
    flag = "--" + name.removesuffix("_s").removesuffix("_px").replace("_", "-")
    wanted = f"{least:g} or more" if most is None else f"from {least:g} to {_readable(most)}"
    raise VlfError(f"{flag} is {value}; expected {'above 0' if least == 1e-9 else wanted}")


def _readable(most: float) -> str:
    return str(most) if isinstance(most, int) else f"below {round(most)}"
