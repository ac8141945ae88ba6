"""The models, in PyTorch. ``create_model`` makes one by name; a model's file is imported when first asked for."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import VlfError

if TYPE_CHECKING:
    from .model import Model
    from .sizes import Sizes

# Name -> file. Each file has SIZES: name -> sizes, which know to_json(), from_json() and build().
_HOME = {
    "vlf": "vlf",
    "vlf-lite": "vlf",
    "vlf-mobile": "vlf",
    "vlf-tiny": "vlf",
    "tsn": "tsn",
    "tsn-mobilenetv2": "tsn",
    "tsm": "tsm",
    "tsm-mobilenetv2": "tsm",
    "tsm-online": "tsm",
    "tsm-online-mobilenetv2": "tsm",
    "vtn": "vtn",
    "vtn-mobilenetv2": "vtn",
    "vtn-diff": "vtn",
    "vtn-two-stream": "vtn",
    "xvit": "xvit",
    "xvit-16": "xvit",
    "xvit-kinetics": "xvit",
    "xvit-small": "xvit",
    "xvit-tiny": "xvit",
}
MODELS = tuple(_HOME)

__all__ = ["MODELS", "create_model", "sizes_from_json", "sizes_of"]


def create_model(
    name: str,
    classes: int,
    *,
    backbone: str | None = None,
    size_px: int | None = None,
    frames: int | None = None,
    pretrained: bool = False,
    backbone_weights: str | os.PathLike[str] | None = None,
    seed: int | None = None,
) -> Model:
    """A model with fresh weights, in training mode.

    name: one of MODELS. classes: C. backbone: another timm model for f. size_px: height and width of an image; frames:
    K; None for those the name stands for. pretrained: timm's weights for f (downloads). backbone_weights: a file with
    them instead, as timm, torchvision or efficientnet_pytorch name them. seed: makes the random weights reproducible
    and leaves the caller's random state alone.
    Raises VlfError for an unknown name or sizes no model can have, WeightsError if weights cannot be had.
    """
    import torch

    sizes = replace(sizes_of(name, size_px, frames), classes=classes)
    if backbone is not None:
        sizes = replace(sizes, backbone=backbone, backbone_options={})
    with torch.random.fork_rng(devices=[]) if seed is not None else nullcontext():
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        model = sizes.build(pretrained)
    if backbone_weights is not None:
        import_module(".published", __name__).load_backbones(model, backbone_weights)
    return model


def sizes_of(name: str, size_px: int | None = None, frames: int | None = None) -> Sizes:
    """The sizes a name stands for, with other images or another number of frames if asked. Raises VlfError for a name
    that is none, and for sizes no model can have."""
    if name not in _HOME:
        raise VlfError(f"no model {name!r}; available: {', '.join(MODELS)}")
    asked = {"height_px": size_px, "width_px": size_px, "frames": frames}
    sizes = import_module(f".{_HOME[name]}", __name__).SIZES[name]
    return replace(sizes, **{field: value for field, value in asked.items() if value is not None})


def sizes_from_json(raw: Any) -> Sizes:
    """Sizes from what ``to_json`` gave; raw["name"] says which model they are of. Raises VlfError."""
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        raise VlfError("sizes are not an object with a model's name in it")
    return type(sizes_of(raw["name"])).from_json(raw)
