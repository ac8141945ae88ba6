"""Recipe: everything a build needs to know, from a TOML file, the command line or Python."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import BackendMissing, VlfError
from ..manifest import PRECISIONS

METHODS = ("minmax", "entropy", "percentile")
BEST = "best"  # fp16 or int8, whichever is faster here and passes the gate
FRONTENDS = ("onnx", "torch-tensorrt")
SHIPPED_WEIGHTS = "vlf-tiny"  # the word for the weights that come with the package
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
    """What to build, and how.

    weights: a safetensors (or .pt) file. random_weights: build untrained weights, knowingly. model: "vlf", "vlf-lite"
    or "vlf-tiny" (default), labels: names of the classes, seed: all three of random weights only.
    precision: "fp32", "fp16", "int8" or "best" (fp16 or int8, whichever is faster on this machine and passes the
    gate); None keeps a base plan's and means fp16 otherwise.
    calib_data: clips: files, folders, globs, annotation files, test://motion, or "motion" (rendered clips of known
    labels). calib_samples: windows taken from them. calib_method: "minmax", "entropy" or "percentile"; percentile: in
    per cent, for the latter. max_drop: points of accuracy that int8 may cost where labels are known, else per cent of
    decisions that may differ from fp32's.
    frontend: what engines are compiled from: "onnx", the plan's own typed graphs, or "torch-tensorrt", the PyTorch
    modules of weights (see torch_tensorrt.py).
    target: "auto", "cpu", "rtx", "rtx-turing" or "tensorrt". max_batch: largest batch of an engine,
    opt_batch: the one it is to be fastest at.
    workspace_mib: memory TensorRT's builder may use, None for its own default. span_s: seconds a window covers, None
    for what the weights were trained with.
    """

    model: str | None = None
    weights: str | None = None
    random_weights: bool = False
    labels: tuple[str, ...] = ()
    seed: int = 0
    precision: str | None = None
    calib_data: tuple[str, ...] = ()
    calib_samples: int = 64
    calib_method: str = "percentile"
    percentile: float = 99.99
    max_drop: float = MAX_DROP_POINTS
    frontend: str = "onnx"
    target: str = "auto"
    max_batch: int = 8
    opt_batch: int = 1
    workspace_mib: int | None = None
    span_s: float | None = None

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, (*PRECISIONS, BEST, None))
        _one_of("calib_method", self.calib_method, METHODS)
        _one_of("frontend", self.frontend, FRONTENDS)
        if self.calib_samples < MIN_SAMPLES:
            raise VlfError(f"calib_samples is {self.calib_samples}; INT8 needs at least {MIN_SAMPLES}, 64 is usual")
        if not 0 < self.percentile <= 100:
            raise VlfError(f"percentile is {self.percentile}; expected more than 0 and at most 100, such as 99.99")
        if not -100 <= self.max_drop <= 100:
            raise VlfError(f"max_drop is {self.max_drop}; expected points from -100 to 100, such as {MAX_DROP_POINTS}")
        if not 0 <= self.seed < 1 << 63:
            raise VlfError(f"seed is {self.seed}; expected a whole number from 0 to 2**63 - 1")
        if self.labels and (len(self.labels) < 2 or len(set(self.labels)) < len(self.labels)):
            raise VlfError(
                f"got {len(self.labels)} labels, {len(set(self.labels))} of them different; expected 2 or more"
            )
        for name in ("max_batch", "workspace_mib"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise VlfError(f"{name} is {value}; expected 1 or more")
        if not 1 <= self.opt_batch <= self.max_batch:
            raise VlfError(f"opt_batch is {self.opt_batch}; expected 1 to max_batch, which is {self.max_batch}")
        if self.span_s is not None and not 0 < self.span_s <= 600:
            raise VlfError(f"span_s is {self.span_s}; a window covers more than 0 and at most 600 seconds")

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
    toml = _toml_reader()
    try:
        raw = toml.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise VlfError(f"cannot read the recipe {path}: {why}") from None
    known = {f.name: f for f in fields(Recipe)}
    values: dict[str, Any] = {}
    for name, value in raw.items():
        if name not in known:
            raise VlfError(f"{path}: unknown entry {name!r}; a recipe has: {', '.join(known)}")
        kind = known[name].type
        listed = kind.startswith("tuple")
        wanted = {"str": str, "bool": bool, "int": int, "float": (int, float)}.get(kind.split(" ")[0], list)
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise VlfError(f"{path}: {name} is {value!r}, expected {'a list' if listed else kind.split(' ')[0]}")
        values[name] = tuple(str(item) for item in value) if listed else value
    if "calib_data" in values:
        values["calib_data"] = tuple(_beside(beside, clips, MOTION) for clips in values["calib_data"])
    if "weights" in values:
        values["weights"] = _beside(beside, values["weights"], SHIPPED_WEIGHTS)
    return values


def _toml_reader() -> ModuleType:
    for name in ("tomllib", "tomli"):  # Python 3.10 has no tomllib
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise BackendMissing("recipes need tomli on Python 3.10, not installed here: pip install 'vlf_edge[build]'")


def _beside(recipe: Path, name: str, word: str) -> str:
    """The file as it was named beside the recipe. word: what is no file; one that is called so is ./word."""
    return name if name == word or "://" in name or Path(name).is_absolute() else str(recipe.parent / name)


def _one_of(what: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise VlfError(f"{what} is {value!r}, expected one of {', '.join(map(str, allowed))}")
