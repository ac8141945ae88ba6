"""Everything a training run is asked for, in one frozen value: it defines the run and is recorded in its weights."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass
from typing import Any

from ..errors import VlfError
from ..models import MODELS
from ..options import check_options, option

DEFAULT_MODEL = "vlf-tiny"
DEFAULT_LR = 1e-3
DEFAULT_QAT_LR = 2e-4
# Fewer steps between two looks at the validation set teach nothing: small data is gone through several times.
LEAST_STEPS_PER_EPOCH = 10
DEFAULT_PATIENCE = 8
_LARGEST_SEED = 2**32 - 1
# These may differ between a run and its continuation: they do not change what is computed (compile: but for rounding).
_FREE = frozenset({"out", "half", "workers", "threads", "max_minutes", "compile"})


@dataclass(frozen=True)
class Settings:
    """One training run: each field with its option on the command line.

    data, val: what ``datasets.open_dataset`` takes; with ``val`` nothing is held out of ``data``.
    model, backbone, size_px, frames, pretrained, backbone_weights: a model made anew, as ``models.create_model`` takes
    them.
    start: a weights file to start from instead; its sizes are kept, its head too if the classes are the same.
    out: the best weights; what else a run writes is named after it.
    batch: clips of a step, over all processes. lr: reached after the share ``warmup`` of all steps and falling to zero
    by a cosine. weight_decay: not on norms, biases and positions.
    freeze: the name of a stage that is kept as it is. balance: draw every class equally often in training, and
    give each the same weight in validation; training data that never ends is balanced as it is.
    motion_weight, motion_weight_end: of no effect on data that does not know its motion. acts: of rendered motion.
    workers: for each process that trains.
    Raises VlfError for values that make no run.
    """

    data: str = option(
        MISSING,
        "motion (rendered clips), a folder class/clip.mp4, or an annotation file: CSV path,label, "
        "Something-Something's JSON, EPIC-KITCHENS' CSV",
        "DATA",
    )
    out: str = option("weights.safetensors", "default: weights.safetensors", "FILE", flags=("--out", "-o"))
    half: bool = option(False, "store weights as float16: half the bytes, and next to no difference")
    val: str | None = option(None, "other data to validate on (default: DATA's own, or a part of it)", "DATA")
    model: str | None = option(None, "sizes (default: those of --from, else vlf-tiny)", choices=MODELS)
    backbone: str | None = option(None, "another timm model as CNN", "NAME")
    size_px: int | None = option(
        None, "height and width of an image (default: the model's)", "PX", flags=("--size",), least=1
    )
    frames: int | None = option(None, "frames of a window (default: the model's, 8)", "K", least=1)
    pretrained: bool = option(False, "start from timm's weights of the CNN (fetched once); not vlf-tiny")
    backbone_weights: str | None = option(
        None,
        "start from these weights of the CNN: a state dict of timm, torchvision or efficientnet_pytorch, .safetensors "
        "or .pth",
        "FILE",
    )
    start: str | None = option(
        None,
        "start from these weights, or from those that come with vlf-edge: vlf-tiny, vlf-tiny-acts; other classes get a "
        "new head, and clips of rendered motion are hard from the first one on",
        "WEIGHTS",
        flags=("--from",),
    )
    epochs: int = option(20, "default: 20", "N", least=1)
    batch: int = option(32, "clips of a step (default: 32)", "N", least=1)
    clips_per_epoch: int | None = option(
        None,
        "clips that make an epoch (default: all of DATA, 10 steps at least: few clips are seen several times)",
        "N",
        least=1,
    )
    patience: int | None = option(
        None, "stop after N epochs without better validation, 0: never (default: with --from 8, else 0)", "N", least=0
    )
    val_clips: int | None = option(None, "validate on at most N clips (default: all)", "N", least=1)
    span_s: float | None = option(
        None, "seconds of a window (default: DATA's median clip)", "S", flags=("--span",), above=0
    )
    lr: float | None = option(None, "highest learning rate (default: 1e-3, with --qat 2e-4)", "X", above=0)
    warmup: float = option(0.05, "of all steps (default: 0.05)", "SHARE", least=0, below=1)
    weight_decay: float = option(0.05, "default: 0.05", "X", least=0)
    clip_norm: float = option(1.0, "largest norm of the gradient (default: 1)", "X", above=0)
    label_smoothing: float = option(0.1, "default: 0.1", "SHARE", least=0, below=1)
    ema_decay: float = option(0.999, "of the averaged weights (default: 0.999)", "X", least=0, below=1)
    motion_weight: float = option(
        4.0,
        "of telling how things move, beside the class, at first (default: 4); only for DATA that knows it: motion",
        "X",
        least=0,
    )
    motion_weight_end: float = option(0.3, "the same, in the end (default: 0.3)", "X", least=0)
    acts: float = option(
        0.0,
        "of motion's clips, in which people do made-up acts instead: it learns to look at limbs, for actions to enrol "
        "(default: 0)",
        "SHARE",
        least=0,
        below=1,
    )
    teachers: tuple[str, ...] = option(
        (), "weights to distil from, several as an ensemble", "WEIGHTS", flags=("--teacher",)
    )
    hint_weight: float = option(
        0.0,
        "of telling --teacher's tokens too, at first; falls to 0. A few clips then teach what many do without; "
        "needs as many tokens an image (default: 0)",
        "X",
        least=0,
    )
    freeze: str | None = option(
        None,
        "a stage of --from that does not move, the statistics of its BatchNorm included: steps are faster, and there "
        "is less to learn by heart",
        choices=("frame",),
    )
    balance: bool = option(
        False,
        "classes count alike however few clips they have: as often in training, as much in what validation says",
    )
    qat: bool = option(False, "fine-tune --from for int8: the plan takes over the scales learned")
    seed: int = option(0, "the same seed gives the same weights (default: 0)", "N", least=0, most=_LARGEST_SEED)
    workers: int | None = option(None, "processes that read clips (default: one a core, at most 16)", "N", least=0)
    threads: int | None = option(
        None,
        "threads that compute on a CPU, of each process; beside other work 1 may be faster than many (default: "
        "PyTorch's, one for each core)",
        "N",
        least=1,
    )
    max_minutes: float | None = option(None, "stop by then with everything saved; --resume goes on", "M", above=0)
    compile: bool = option(False, "compile the model with PyTorch's compiler (on a CPU: needs g++)")

    def __post_init__(self) -> None:
        check_options(self)
        new = {"--backbone": self.backbone, "--size": self.size_px, "--frames": self.frames}
        new |= {"--pretrained": self.pretrained, "--backbone-weights": self.backbone_weights}
        asked = [flag for flag, value in new.items() if value]
        if self.start and asked:
            raise VlfError(f"--from {self.start} brings a model as it is; leave out {' and '.join(asked)}, or --from")
        if self.pretrained and self.backbone_weights:
            raise VlfError(f"--pretrained fetches what {self.backbone_weights} brings; leave one of them out")
        if self.hint_weight and not self.teachers:
            raise VlfError(f"--hint-weight {self.hint_weight:g} is of the teachers' tokens; name some with --teacher")
        if self.acts and self.data != "motion":
            raise VlfError(f"--acts {self.acts:g} is of rendered clips; the data is {self.data}, expected motion")
        if self.freeze and not self.start:
            raise VlfError(f"--freeze {self.freeze} keeps what was learned; name its weights with --from WEIGHTS")
        if self.freeze and self.qat:
            raise VlfError(f"--qat has every stage learn around int8; leave out --freeze {self.freeze}, or --qat")
        if self.qat and not self.start:
            raise VlfError("--qat fine-tunes a trained model; name its weights with --from WEIGHTS")

    @property
    def name(self) -> str:
        """Of the model, where it is made anew."""
        return self.model or DEFAULT_MODEL

    @property
    def inputs(self) -> tuple[str, ...]:
        """The files and folders that the run reads, as they were named."""
        return tuple(filter(None, (self.data, self.val, self.start, self.backbone_weights, *self.teachers)))

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
        for name in ("backbone_weights", "acts"):  # as runs were recorded before there was such a thing
            if not values[name]:
                del values[name]
        return {**values, "teachers": list(self.teachers), "lr": self.peak_lr, "patience": self.most_idle_epochs}


TrainingSettings = Settings  # at the front door, where there are others
