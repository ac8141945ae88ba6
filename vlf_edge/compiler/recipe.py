"""Recipe: everything a build needs to know, from a TOML file, the command line or Python."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .. import shipped
from ..errors import VlfError
from ..manifest import PRECISIONS
from ..models import MODELS
from ..options import check_options, option
from ..toml_file import TomlFile

METHODS = ("minmax", "entropy", "percentile")
BEST = "best"  # fp16 or int8, whichever is faster here and passes the gate
FRONTENDS = ("onnx", "torch-tensorrt")
MOTION = "motion"  # the word for clips rendered on the spot, with known labels
MIN_SAMPLES = 16
MAX_DROP_POINTS = 1.0
_RECIPE_FOLDERS = ("calibration", "engines")
CLIPS_FIX = (
    "give --calib-data a folder of videos from your own camera (record some: vlf-edge capture 0 -o calibration/clips), "
    "or motion (rendered clips) to try things out"
)


@dataclass(frozen=True)
class Recipe:
    """What to build, and how: each field with its option on the command line.

    random_weights: build untrained weights, knowingly. model, labels (names of the classes), frames, size_px: of random
    weights, and of checkpoints that do not know them. seed: of random weights. precision: None keeps a base plan's and
    means fp16 otherwise.
    calib_data: clips, of which calib_samples windows are taken. percentile: in per cent.
    frontend: "onnx", the plan's own typed graphs, or "torch-tensorrt" (see torch_tensorrt.py).
    span_s: None for what the weights were trained with.
    Raises VlfError for values that nothing can be built of.
    """

    model: str | None = option(
        None,
        "what --random-weights are of (default: vlf-tiny), or a checkpoint of the authors of TSN, TSM, VTN or X-ViT",
        choices=MODELS,
    )
    weights: str | None = option(
        None,
        ".safetensors or .pt (weights only, never unpickled), or what comes with vlf-edge: vlf-tiny, or vlf-tiny-acts, "
        "to enrol people's actions on (default: vlf-tiny)",
        "FILE",
    )
    random_weights: bool = option(False, "untrained weights: runs, but labels mean nothing")
    labels: tuple[str, ...] = ()
    frames: int | None = option(None, "frames of a window, with --model (default: the model's)", "K", least=1)
    size_px: int | None = option(
        None, "height and width of an image, with --model (default: the model's)", "PX", flags=("--size",), least=1
    )
    seed: int = option(0, "seed of --random-weights (default: 0)", "N")
    precision: str | None = option(
        None,
        "arithmetic of the engines; best is fp16 or int8, whichever is faster on this machine and passes the gate "
        "(default: BASE's, else fp16)",
        choices=(*PRECISIONS, BEST),
    )
    calib_data: tuple[str, ...] = option(
        (),
        "videos that INT8 is calibrated and measured on, taken as the live runtime takes them: files, folders, "
        "globs, annotation files, test://motion, or motion (rendered clips of known labels); a folder named after a "
        "label tells what its clips show (default for the weights that come with vlf-edge: motion)",
        "CLIPS",
    )
    calib_samples: int = option(64, "windows of K frames to calibrate on (default: 64)", "N")
    calib_method: str = option("percentile", "how ranges are chosen (default: percentile)", choices=METHODS)
    percentile: float = option(99.99, "for --calib-method percentile (default: 99.99)", "PERCENT", above=0, most=100)
    max_drop: float = option(
        MAX_DROP_POINTS,
        "what the plan may lose against fp32 in the worst way of running it here: points of accuracy where labels "
        "are known, else per cent of decisions that differ (default: 1.0)",
        "POINTS",
        least=-100,
        most=100,
    )
    frontend: str = option(
        "onnx",
        "what engines are compiled from: the plan's own graphs, or the PyTorch modules of --weights through "
        "Torch-TensorRT, which needs a GPU and a PyTorch for it (default: onnx)",
        choices=FRONTENDS,
    )
    target: str = option(
        "auto",
        "engines to compile: auto (all this machine can), cpu (none: the portable graph runs), "
        "rtx (Ampere and later), rtx-turing, rtx:smNN such as rtx:sm86, tensorrt (this machine's GPU); several with "
        "commas (default: auto)",
        "TARGET",
    )
    max_batch: int = option(8, "largest batch of the engines (default: 8)", "N", least=1)
    opt_batch: int = option(1, "batch that the engines are to be fastest at (default: 1)", "N")
    workspace_mib: int | None = option(
        None, "memory TensorRT's builder may use (default: TensorRT's, which may be all)", "MIB", least=1
    )
    span_s: float | None = option(
        None,
        "seconds one window covers (default: as trained, else 2)",
        "S",
        flags=("--span",),
        above=0,
        most=600,
    )

    no_golden_windows: bool = option(
        False,
        "put no images of the clips into the plan; engines are then not held to them where they start",
    )

    def __post_init__(self) -> None:
        check_options(self, name_of=str)
        if self.calib_samples < MIN_SAMPLES:
            raise VlfError(f"calib_samples is {self.calib_samples}; INT8 needs at least {MIN_SAMPLES}, 64 is usual")
        if not 0 <= self.seed < 1 << 63:
            raise VlfError(f"seed is {self.seed}; expected a whole number from 0 to 2**63 - 1")
        if self.labels and (len(self.labels) < 2 or len(set(self.labels)) < len(self.labels)):
            raise VlfError(
                f"got {len(self.labels)} labels, {len(set(self.labels))} of them different; expected 2 or more"
            )
        if not 1 <= self.opt_batch <= self.max_batch:
            raise VlfError(f"opt_batch is {self.opt_batch}; expected 1 to max_batch, which is {self.max_batch}")

    def converts(self, precision: str | None) -> bool:
        """True if this asks for more of a base plan than further engines. precision: the plan's, None for another."""
        return bool(
            self.precision not in (None, precision)
            or self.calib_data
            or self.span_s
            or self.weights
            or self.random_weights
            or self.labels
            or self.model
            or self.frames
            or self.size_px
        )


def load_recipe(*paths: str | os.PathLike[str], **changes: Any) -> Recipe:
    """The recipe in one or more TOML files, later files before earlier ones, with ``changes`` on top of all.

    Names such as "calibration/motion.toml" mean the recipes that come with the package where there is no such file.
    Paths inside a file are relative to that file as it was named. Raises VlfError for an unreadable file, an unknown
    key or a value of the wrong type.
    """
    values: dict[str, Any] = {}
    for path in map(Path, paths):
        values |= _from_toml(path if path.exists() else packaged_recipe(path) or path, beside=path)
    return Recipe(**{**values, **changes})


def packaged_recipe(name: str | os.PathLike[str]) -> Path | None:
    """The recipe "calibration/NAME.toml" or "engines/NAME.toml" that comes with vlf_edge, None if there is none.

    An installed package has those folders inside itself, a checkout has them beside it.
    """
    package, name = Path(__file__).parents[1], Path(name)
    if len(name.parts) != 2 or name.parts[0] not in _RECIPE_FOLDERS:
        return None
    return next((path for path in (package / name, package.parent / name) if path.is_file()), None)


def _from_toml(path: Path, beside: Path) -> dict[str, Any]:
    file = TomlFile(path, "recipe")
    known = {f.name: f for f in fields(Recipe)}
    values: dict[str, Any] = {}
    for name, value in file.values.items():
        if name not in known:
            raise VlfError(f"{file.place(name)}: unknown entry {name!r}; a recipe has: {', '.join(known)}")
        kind = known[name].type
        listed = kind.startswith("tuple")
        wanted = {"str": str, "bool": bool, "int": int, "float": (int, float)}.get(kind.split(" ")[0], list)
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            expected = "a list" if listed else kind.split(" ")[0]
            raise VlfError(f"{file.place(name)}: {name} is {value!r}, expected {expected}")
        values[name] = tuple(str(item) for item in value) if listed else value
    if "calib_data" in values:
        values["calib_data"] = tuple(_beside(beside, clips, (MOTION,)) for clips in values["calib_data"])
    if "weights" in values:
        values["weights"] = _beside(beside, values["weights"], shipped.NAMES)
    return values


def _beside(recipe: Path, name: str, words: Collection[str]) -> str:
    """The file as it was named beside the recipe. words: what are no files; one that is called so is ./word."""
    return name if name in words or "://" in name or Path(name).is_absolute() else str(recipe.parent / name)
