"""Weights files: safetensors that know their model, or a plain PyTorch dict. Nothing is ever unpickled.

A safetensors file carries, as JSON under the metadata key "vlf_edge": sizes (the model's own dataclass), labels
(C class names, in logit order) and record (how it was trained). The same model always gives the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from .. import shipped
from ..atomic import replacing
from ..errors import VlfError, WeightsError, one_line
from . import sizes_from_json
from .published_names import is_published, tensors_of

if TYPE_CHECKING:
    from .model import Model
    from .sizes import Sizes

_KEY = "vlf_edge"
# Of a file's sizes: a number in a backbone's options, and the tensors made to look at the model.
_LARGEST_OPTION, _MOST_TENSORS = 8192, 20_000
_SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class LoadedWeights:
    """model: in evaluation mode, on the CPU. labels: C names, in logit order. record: the training record.
    sha256: of the file's bytes."""

    model: Model
    labels: tuple[str, ...]
    record: dict[str, Any]
    sha256: str


def save_weights(
    path: str | os.PathLike[str], model: Model, labels: Sequence[str], record: dict[str, Any], *, half: bool = False
) -> None:
    """Writes a .safetensors file in one step: complete or not there at all.

    labels: one per class, in logit order. record: any JSON object, such as data set, epochs and accuracy. half: store
    float16, half the bytes; loaded again, the model is a float32 one with the rounded weights. What float16 cannot
    hold, such as a large variance, stays float32.
    Raises WeightsError if the labels do not fit the model, the record is not JSON or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"weights are written as .safetensors, got {path.name!r}")
    labels = checked_labels(path, labels, model.sizes.classes)
    about = {"sizes": model.sizes.to_json(), "labels": labels, "record": record}
    try:
        metadata = {_KEY: json.dumps(about, sort_keys=True)}
    except (TypeError, ValueError) as error:
        raise WeightsError(f"the training record for {path} is not plain JSON: {error}") from None
    tensors = {name: _stored(tensor, half) for name, tensor in model.state_dict().items()}
    _write(path, safetensors.torch.save(tensors, metadata))


def load_weights(path: str | os.PathLike[str]) -> LoadedWeights:
    """Reads a file written by ``save_weights``, or a .pt/.pth holding {"sizes", "labels", "state_dict"}.

    path: of the file, or a name of ``shipped``.

    Raises WeightsError, in one sentence, for a file that is missing, unreadable, of another kind or of another model,
    and for labels that do not match the classes.
    """
    path = shipped.WEIGHTS.get(str(path), Path(path))
    if path.suffix not in _SUFFIXES:
        raise WeightsError(
            f"{path} is not a weights file: expected {', '.join(_SUFFIXES)}, or what comes with vlf-edge: "
            f"{', '.join(shipped.NAMES)}"
        )
    data = read_file(path)
    about, state = _from_safetensors(path, data) if path.suffix == ".safetensors" else _from_torch(path, data)
    try:
        sizes = sizes_from_json(about["sizes"])
        check_state(path, _expected(sizes), state)
        with torch.random.fork_rng(devices=[]):  # its random weights are about to be replaced
            model = sizes.build()
    except WeightsError:
        raise
    except (VlfError, ValueError, TypeError, OverflowError, RecursionError) as error:
        said = one_line(error, 400)
        raise WeightsError(f"weights {path} do not describe a model of this version: {said}") from error
    labels = checked_labels(path, about["labels"], sizes.classes)
    if not isinstance(about["record"], dict):
        raise WeightsError(f"weights {path}: the training record is not an object of names and values")
    model.load_state_dict(state)
    return LoadedWeights(model.eval(), labels, about["record"], hashlib.sha256(data).hexdigest())


def read_file(path: Path) -> bytes:
    """The bytes of a weights file. Raises WeightsError."""
    try:
        return read_regular(path)
    except FileNotFoundError:
        raise WeightsError(f"no weights at {path}") from None
    except OSError as error:
        raise WeightsError(f"weights {path} cannot be read: {error.strerror}") from None


def read_regular(path: Path) -> bytes:
    """The bytes of a file. Raises OSError for anything that may block or never end: a pipe, a device."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.read_bytes()


def read_safetensors(data: bytes, key: str) -> tuple[Any, dict[str, Tensor]]:
    """The JSON document under the metadata key ``key``, and the tensors on the CPU.

    Raises SafetensorError for what is no safetensors file, KeyError, ValueError, TypeError or RecursionError if there
    is no such document, or one that is not plain: NaN and infinity are no JSON, lone surrogates are no text.
    """
    state = safetensors.torch.load(data)  # checks the header that is read again
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    text = header["__metadata__"][key]
    document = json.loads(text, parse_constant=_refuse_constant)
    json.dumps(document, ensure_ascii=False).encode()
    return document, state


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _expected(sizes: Sizes) -> dict[str, Tensor]:
    """What a model of these sizes holds, as tensors without memory: a file's sizes may ask for any amount of it.
    Raises VlfError as soon as there are more than any network of timm makes."""
    _check_numbers(sizes.backbone_options)
    made = 0

    def register(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal made
        made += parameter is not None
        if made > _MOST_TENSORS:
            raise VlfError(f"its sizes ask for more than {_MOST_TENSORS} tensors")

    watch = register_module_parameter_registration_hook(register)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return sizes.build().state_dict()
    finally:
        watch.remove()


def _check_numbers(value: Any) -> None:
    """Raises VlfError for a number in a backbone's options that no network of its kind has."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            _check_numbers(item)
    elif isinstance(value, (int, float)) and not abs(value) <= _LARGEST_OPTION:
        raise VlfError(f"backbone_options holds {value:.6g}, expected numbers up to {_LARGEST_OPTION}")


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    rounded = tensor.half() if half and tensor.is_floating_point() else tensor
    return rounded if torch.isfinite(rounded).all() else tensor


def _from_safetensors(path: Path, data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        about, state = read_safetensors(data, _KEY)
        return _checked_about(path, about, "record"), state
    except safetensors.SafetensorError as error:
        raise WeightsError(f"weights {path} are damaged or not safetensors: {error}") from None
    except (KeyError, ValueError, TypeError, RecursionError):
        raise WeightsError(f"weights {path} were not written by vlf-edge: there are no model sizes in them") from None


def unpickled(path: Path, data: bytes) -> Any:
    """What a PyTorch file of plain tensors and values holds. Raises WeightsError for any other."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, for files that are refused anyway
            return torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # pickle errors have no common base; their texts advise to switch the safety off
        raise WeightsError(
            f"weights {path} were refused: not a PyTorch file of plain tensors and values, or damaged; "
            'save {"sizes", "labels", "state_dict"} with torch.save, or use .safetensors'
        ) from None


def _from_torch(path: Path, data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    content = unpickled(path, data)
    if isinstance(content, dict) and "sizes" not in content:
        _refuse_published(path, content)
    about = _checked_about(path, content, "state_dict")
    state = about["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"weights {path}: state_dict is not a dict of tensors")
    return {"sizes": about["sizes"], "labels": about["labels"], "record": {}}, state


def _refuse_published(path: Path, content: dict[Any, Any]) -> None:
    state = tensors_of(content)
    if state is not None and is_published(state):
        raise WeightsError(
            f"{path} is a checkpoint of a model's authors, which does not say what it is of: build a plan of it with "
            "--model NAME --weights FILE, such as --model tsm"
        )


def _checked_about(path: Path, about: Any, *more: str) -> dict[str, Any]:
    wanted = ("sizes", "labels", *more)
    missing = [key for key in wanted if not isinstance(about, dict) or key not in about]
    if missing:
        raise WeightsError(f"weights {path} lack {', '.join(missing)}; expected {', '.join(wanted)}")
    return about


def checked_labels(path: Path, labels: Any, classes: int) -> tuple[str, ...]:
    if not isinstance(labels, Sequence) or isinstance(labels, str) or not all(isinstance(x, str) for x in labels):
        raise WeightsError(f"weights {path}: labels are not a list of names")
    if len(labels) != classes:
        raise WeightsError(f"weights {path}: {len(labels)} labels for a model of {classes} classes")
    if unprintable := [label for label in labels if not label.isprintable()]:
        raise WeightsError(f"weights {path}: the label {unprintable[0]!r} is not printable text")
    return tuple(labels)


def check_state(path: Path, expected: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """The first thing that does not fit, instead of PyTorch's page of all."""
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(map(str, state.keys() - expected.keys()))
    if missing or unknown:
        raise WeightsError(
            f"weights {path} are of another model: {len(missing)} tensors missing ({', '.join(missing[:3])}), "
            f"{len(unknown)} unknown ({', '.join(unknown[:3])})"
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise WeightsError(
                f"weights {path} are of another model: {name} is {tuple(tensor.shape)}, "
                f"expected {tuple(expected[name].shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"weights {path}: {name} holds NaN or infinite values; training diverged")


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(data)
    except OSError as error:
        raise WeightsError(f"weights cannot be written to {path}: {error.strerror}") from None
