"""A run that can be killed at any time: its whole state in one safetensors file, nothing pickled."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..atomic import replacing
from ..errors import WeightsError
from ..models.weights import read_regular, read_safetensors
from . import curves, report

_KEY = "vlf_edge_run"


@dataclass(frozen=True)
class Outputs:
    """The files of a run, named after the first. best, last: weights. resume: its whole state. table, picture: the
    learning curves. report: all of it to read, once the run is finished."""

    best: Path

    @property
    def last(self) -> Path:
        return self.best.with_suffix(".last.safetensors")

    @property
    def resume(self) -> Path:
        return self.best.with_suffix(".resume.safetensors")

    @property
    def table(self) -> Path:
        return self.best.with_suffix(".csv")

    @property
    def picture(self) -> Path:
        return self.best.with_suffix(".png")

    @property
    def report(self) -> Path:
        return self.best.with_suffix(".html")

    def check(self, inputs: Sequence[str]) -> None:
        """Raises WeightsError if no weights can be written there, or only over ``inputs`` or over a table or page of
        something else: better now than after the first epoch."""
        if self.best.suffix != ".safetensors":
            raise WeightsError(f"--out is {self.best}; weights are written as .safetensors")
        try:
            self.best.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.best.parent):
                pass
        except OSError as error:
            raise WeightsError(f"weights cannot be written to {self.best}: {error.strerror}") from None
        if self.best.is_dir():
            raise WeightsError(f"weights cannot be written to {self.best}: it is a folder")
        files = (self.best, self.last, self.resume, self.table, self.picture, self.report)
        written = {path.resolve() for path in files}
        lost = [Path(path) for path in inputs if Path(path).resolve() in written]
        if not lost:
            ours = {self.table: curves.HEADER, self.report: report.BEGINNING}
            lost = [path for path, beginning in ours.items() if _is_foreign(path, beginning)]
        if lost:
            raise WeightsError(f"--out {self.best} would overwrite {lost[0]}; name another file")


def _is_foreign(path: Path, beginning: bytes) -> bool:
    """True for a file that no run wrote, such as an annotation: it does not begin so."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(beginning)) != beginning


def write_bytes(path: Path, data: bytes) -> None:
    """Complete or not there at all. Raises WeightsError if it cannot be written."""
    try:
        with replacing(path) as file:
            file.write(data)
    except OSError as error:
        raise WeightsError(f"{path} cannot be written: {error.strerror}; the run can go on with --resume") from None


def save_state(path: Path, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]) -> None:
    """Writes groups of named tensors and JSON values. Raises WeightsError if that fails."""
    flat = {
        f"{group}/{name}": tensor.detach().cpu().contiguous()
        for group, named in tensors.items()
        for name, tensor in named.items()
    }
    write_bytes(path, safetensors.torch.save(flat, {_KEY: json.dumps(values, sort_keys=True)}))


def load_state(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """What ``save_state`` wrote, tensors on the CPU. Raises WeightsError for a missing, damaged or foreign file."""
    try:
        values, flat = read_safetensors(read_regular(path), _KEY)
    except FileNotFoundError:
        raise WeightsError(f"there is no run to resume at {path}; leave out --resume to start one") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from None
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged or not the state of a run: {error}; start without --resume") from None
    broken = next((name for name, tensor in flat.items() if not torch.isfinite(tensor).all()), None)
    if broken is not None or not isinstance(values, dict):
        wrong = f"{broken!r} holds NaN or infinite values" if broken is not None else "it lacks names and values"
        raise WeightsError(f"{path} is damaged or not the state of a run: {wrong}; start without --resume")
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = tensor
    return groups, values


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as named tensors: "3.exp_avg" is of its fourth parameter."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, named in state.items() for name, tensor in named.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of ``optimizer_tensors``. Raises ValueError for tensors that are not of this optimiser."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    expected = {f"{i}.{name}": p.shape for i, p in enumerate(parameters) for name in ("exp_avg", "exp_avg_sq")}
    expected |= {f"{i}.step": torch.Size() for i in range(len(parameters))}
    if tensors and {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise ValueError("the moments in it are of other parameters")
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        if tensor.ndim:
            # The fused optimiser walks through memory: moments must lie there as their parameter does.
            tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


# What a state's values must look like: a type, {name: of that entry} (others may be there too), [of each entry], or
# {str: of each value}.
_VALUES = {
    "identity": {}, "step": int, "clips": int, "seconds": float, "sums": [float], "scaler": {str: float},
    "broken": {str: str}, "history": [dict.fromkeys(curves.COLUMNS, float)],
}  # fmt: skip
_BEST = {
    "model": str, "epochs": float, "clips": int, "minutes": float, "span_s": float, "settings": {},
    "broken": {"training": int, "validation": int},
    "val": {"top1": float, "loss": float, "clips": int, "chance": float, "recall": {}},
}  # fmt: skip


def check_values(path: Path, values: Mapping[str, Any]) -> None:
    """Raises WeightsError unless the values have the names and types that a run gives them."""
    wrong = next((name for name in _VALUES if name not in values or not _fits(values[name], _VALUES[name])), None)
    if wrong is None and not ("best" in values and (values["best"] is None or _fits(values["best"], _BEST))):
        wrong = "best"
    if wrong is not None:
        raise WeightsError(
            f"{path} is not the state of a run: {wrong!r} is not what it must be; start without --resume"
        )


def _fits(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return isinstance(value, list) and all(_fits(item, wanted[0]) for item in value)
    if isinstance(wanted, dict):
        if not isinstance(value, dict):
            return False
        if str in wanted:
            return all(_fits(item, wanted[str]) for item in value.values())
        return all(name in value and _fits(value[name], one) for name, one in wanted.items())
    if wanted is str or isinstance(value, bool):
        return wanted is type(value)
    return isinstance(value, int if wanted is int else (int, float)) and 0 <= value < 2**53


def check_same_run(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises WeightsError if a run is to be continued with other settings: the result would be of neither."""
    differ = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if differ:
        said = ", ".join(
            f"{name if name in now else repr(name)[:80]} {before.get(name)!r:.80} then and {now.get(name)!r:.80} now"
            for name in differ[:4]
        )
        raise WeightsError(f"{path} is of a run with other settings: {said}; repeat its command, or leave out --resume")
