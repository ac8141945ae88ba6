"""Checkpoints as the authors of TSN, TSM, VTN and X-ViT give them away: PyTorch files of tensors and nothing else.

    layout of                                         gives
    mit-han-lab/temporal-shift-module                 tsn*, tsm*; its online demo: tsm-online-mobilenetv2
    openvinotoolkit/training_extensions               vtn*
      (pytorch_toolkit/action_recognition)
    1adrianb/video-transformers                       xvit*

They hold no sizes: what can be told from the tensors is (classes, the ResNet, VTN's frames and whether it has its
norm), the rest is what the model's name stands for. Which tensor is which: published_names.py.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..errors import VlfError, WeightsError, one_line
from . import sizes_of
from .model import Model
from .published_names import State, backbone_state, is_published, tensors_of, translated, vit_state
from .sizes import Sizes
from .tsm import TSMSizes
from .tsn import TSNSizes
from .vtn import VTNSizes
from .weights import LoadedWeights, check_state, checked_labels, read_file, unpickled
from .xvit import XViT, XViTSizes

_RESNETS = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
}


def load_published(
    path: str | os.PathLike[str],
    name: str,
    labels: Sequence[str] = (),
    *,
    frames: int | None = None,
    size_px: int | None = None,
) -> LoadedWeights:
    """The model ``name`` with the weights of an author's checkpoint: all of them, or none.

    labels: C class names, in logit order; "class 0", "class 1", ... if there are none. frames, size_px: as for
    ``create_model``. Raises WeightsError, naming what is missing and what is left over.
    """
    path = Path(path)
    data = read_file(path)
    state = None if path.suffix == ".safetensors" else tensors_of(unpickled(path, data))
    if state is None or not is_published(state):
        raise WeightsError(
            f"{path} is no checkpoint of TSN, TSM, VTN or X-ViT in their authors' layouts; files written by vlf-edge "
            "know their model: leave --model out"
        )
    try:
        sizes = sizes_in(state, sizes_of(name, size_px, frames))
        with torch.random.fork_rng(devices=[]):
            model = sizes.build()
        found = translated(state, model.state_dict(), name)
    except WeightsError as error:
        raise WeightsError(f"weights {path}: {error}") from None
    except VlfError as error:
        raise WeightsError(f"weights {path} do not make a {name}: {one_line(error, 400)}") from error
    check_state(path, model.state_dict(), found)
    labels = checked_labels(path, labels or tuple(f"class {i}" for i in range(sizes.classes)), sizes.classes)
    model.load_state_dict(found)
    return LoadedWeights(model.eval(), labels, {"layout": "published"}, hashlib.sha256(data).hexdigest())


def load_backbones(model: Model, path: str | os.PathLike[str]) -> None:
    """Gives a model's networks of timm, or X-ViT's transformer, the weights of such a network out of a state dict in
    the names of timm, torchvision or efficientnet_pytorch: .safetensors, .pt or .pth.

    Raises WeightsError that names what is missing; the model is then as it was.
    """
    path = Path(path)
    state = _named_tensors(path, read_file(path))
    what = f"weights {path}"
    if isinstance(model, XViT):
        found = vit_state(state, model.state_dict(), what)
        check_state(path, {name: model.state_dict()[name] for name in found}, found)
        model.load_state_dict(found, strict=False)
    for net in model.backbones:
        found = backbone_state(state, net.state_dict(), what)
        check_state(path, net.state_dict(), found)
        net.load_state_dict(found)


def _named_tensors(path: Path, data: bytes) -> State:
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load(data)
        except safetensors.SafetensorError as error:
            raise WeightsError(f"weights {path} are damaged or not safetensors: {error}") from None
    state = tensors_of(unpickled(path, data))
    if state is None:
        raise WeightsError(f"weights {path} hold no tensors by name; expected a state dict")
    return state


def sizes_in(state: State, sizes: Sizes) -> Sizes:
    """The sizes with what the tensors tell about them. Raises WeightsError for tensors of another kind of model."""
    found: dict[str, Any] = {}
    if isinstance(sizes, (TSNSizes, TSMSizes)):
        head, found = ("new_fc.weight", "classifier.weight"), _backbone_in(state, sizes, r"(?:^|\.)layer(\d)\.(\d+)\.")
    elif isinstance(sizes, VTNSizes):
        head, found = ("fc.weight",), _decoder_in(state, sizes)
    elif isinstance(sizes, XViTSizes):
        head = ("consensus.mlp_head.4.weight",)
    else:
        raise WeightsError(f"there are no published checkpoints of {sizes.name}; leave --model out for your own")
    name = next((key for key in state if key.endswith(head) and state[key].dim() == 2), None)
    if name is None:
        raise WeightsError(f"this checkpoint is not of {sizes.name}: it has no {head[0]}")
    return replace(sizes, classes=state[name].shape[0], **found)


def _decoder_in(state: State, sizes: VTNSizes) -> dict[str, Any]:
    """Of a VTN: frames, whether there is a norm, and the widths and depths."""
    position = next((key for key in state if key.endswith("position_encoding.enc.weight")), None)
    heads = next((key for key in state if key.endswith("layers.0.slf_attn.w_qs")), None)
    inner = next((key for key in state if key.endswith("layers.0.pos_ffn.w_1.weight")), None)
    if position is None or heads is None or inner is None:
        raise WeightsError(f"this checkpoint is not of {sizes.name}: it has no self_attention_decoder")
    rows, dim = state[position].shape
    decoder = position.removesuffix("position_encoding.enc.weight")
    layers = {key[len(decoder) :].split(".")[1] for key in state if key.startswith(f"{decoder}layers.")}
    return {
        "frames": rows + position.startswith("motion_decoder."),
        "token_dim": dim,
        "layers": len(layers),
        "heads": state[heads].shape[0],
        "ffn_ratio": max(1, state[inner].shape[0] // dim),
        "layer_norm": any(key.endswith(".layer_norm.a_2") for key in state),
        **_backbone_in(state, sizes, r"(?:^|\.)resnet\.([4-7])\.(\d+)\."),
    }


def _backbone_in(state: State, sizes: Sizes, block: str) -> dict[str, Any]:
    """Which ResNet it is, by the blocks of its levels. block: finds level and number of a block in a tensor's name."""
    blocks: dict[str, set[str]] = {}
    for key in state:
        if found := re.search(block, key):
            blocks.setdefault(found[1], set()).add(found[2])
    if not blocks:
        return {}
    counts = tuple(len(blocks[level]) for level in sorted(blocks))
    name = _RESNETS.get((counts, any(".conv3." in key for key in state)))
    if name is None:
        raise WeightsError(f"this checkpoint holds a ResNet of {counts} blocks; known: {', '.join(_RESNETS.values())}")
    if "resnet" not in sizes.backbone:
        raise WeightsError(f"it holds a {name}, {sizes.name} is of {sizes.backbone}: choose another --model")
    return {"backbone": name}
