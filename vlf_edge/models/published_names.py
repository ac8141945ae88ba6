"""Which tensor of a published checkpoint is which of ours; the same for backbones as timm and torchvision name them.

tsn, tsm   "base_model." and "new_fc."; the online demo's MobileNetV2: "features." and "classifier."
vtn        "resnet.", "self_attention_decoder." and "fc."; of differences under "motion_decoder.", of two streams
           under "rgb_recoder." as well
xvit       "base_model." and "consensus."
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from ..errors import WeightsError

State = Mapping[str, Tensor]
_WRAPPERS = ("state_dict", "model_state", "model")
# Of one of our tensors, what it is made from: their names, and how.
_Rule = tuple[tuple[str, ...], Callable[..., Tensor]]


def tensors_of(content: object) -> State | None:
    """The tensors of a checkpoint, out of what training loops wrap them in; None if there are none in it."""
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        return None
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if len(tensors) < len(content) or not all(isinstance(name, str) for name in content):
        return None
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def is_published(state: State) -> bool:
    """Whether these tensors are named as one of the authors' checkpoints names them."""
    heads = ("new_fc.weight", "consensus.cls_token", "self_attention_decoder.", "motion_decoder.", "classifier.weight")
    return any(name.startswith(heads) for name in state)


def translated(state: State, wanted: Mapping[str, Tensor], model: str) -> dict[str, Tensor]:
    """The checkpoint's tensors under our names.

    wanted: what the model holds. model: its name, for messages. Raises WeightsError that names what is missing and what
    is left over: nothing is loaded in part.
    """
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    missing: list[str] = []
    for name, tensor in wanted.items():
        if name.endswith((".mean", ".std")) and ".normalise." in f".{name}":
            found[name] = tensor  # the authors normalise outside of the network, by the same numbers
            continue
        sources, make = _rule(name, state)
        if absent := [source for source in sources if source not in state]:
            if name.endswith("num_batches_tracked"):  # older PyTorch kept none
                found[name] = torch.zeros((), dtype=torch.int64)
                continue
            missing += absent
            continue
        used.update(sources)
        found[name] = make(*(state[source] for source in sources))
        if name == "time_position" and found[name].shape[0] < tensor.shape[0]:
            # The released code has 8 rows at any number of frames, and uses them over again.
            found[name] = found[name].repeat(tensor.shape[0] // found[name].shape[0], 1, 1)
    left = sorted(state.keys() - used - _unused(state))
    if missing or left:
        raise WeightsError(
            f"this checkpoint is not of {model}: {len(missing)} tensors missing ({', '.join(missing[:3])}), "
            f"{len(left)} unknown ({', '.join(left[:3])})"
        )
    return found


def backbone_state(state: State, wanted: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """A backbone's weights under timm's names, for the part of it that ``wanted`` holds.

    state: of timm, of torchvision, or, of an EfficientNet, of efficientnet_pytorch. what: for messages. Tensors past
    that part, such as the classifier, are left out. Raises WeightsError that names what is missing.
    """
    found: dict[str, Tensor] = {}
    counted = _of_efficientnet_pytorch(wanted)
    for name, tensor in wanted.items():
        plain = name.replace(".net.", ".") if name not in state else name  # a shift wraps the convolution
        theirs = next(
            (source for source in (name, plain, *_of_torchvision(plain), counted[name]) if source in state), None
        )
        if theirs is None and name.endswith("num_batches_tracked"):
            found[name] = torch.zeros((), dtype=torch.int64)
        elif theirs is None:
            raise WeightsError(
                f"{what} has no {plain}; expected the weights of this backbone, in the names of timm, torchvision "
                "or efficientnet_pytorch"
            )
        elif state[theirs].shape != tensor.shape:
            raise WeightsError(
                f"{what} is of another backbone: {theirs} is {tuple(state[theirs].shape)}, expected "
                f"{tuple(tensor.shape)}"
            )
        else:
            found[name] = state[theirs]
    return found


def vit_state(state: State, wanted: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Of an X-ViT, ``wanted``, what a vision transformer of timm has too, from its ``state``. Raises WeightsError that
    names what is missing."""
    found = {}
    for name in wanted:
        (theirs, *_), make = _xvit_rule(name)
        theirs = theirs.removeprefix("base_model.")
        if name == "time_position" or theirs.startswith("consensus.") or ".normalise." in f".{name}":
            continue
        if theirs not in state:
            raise WeightsError(f"{what} has no {theirs}; expected a vision transformer's weights in the names of timm")
        found[name] = make(state[theirs])
    return found


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _rule(name: str, state: State) -> _Rule:
    """Of our tensor ``name``: the checkpoint's tensors that it is made from, and how."""
    if name.startswith(("frame.encoders.", "clip.decoders.")):
        return _vtn_rule(name, state)
    if name.startswith("frame.net."):
        return (_tsn_name(name.removeprefix("frame.net."), state),), _same
    if name.startswith("clip.fc."):
        head = "classifier" if "classifier.weight" in state and "new_fc.weight" not in state else "new_fc"
        return (name.replace("clip.fc", head),), _same
    return _xvit_rule(name)


def _tsn_name(name: str, state: State) -> str:
    demo = "classifier.weight" in state and "new_fc.weight" not in state
    theirs = _mobilenetv2(name) if _is_mobilenetv2(state) else name
    if demo:  # its blocks take the shifted channels as an argument: nothing is wrapped
        return theirs.replace(".net.", ".")
    return f"base_model.{theirs}"


def _vtn_rule(name: str, state: State) -> _Rule:
    _, _, modality, rest = name.split(".", 3)
    two = any(key.startswith("rgb_recoder.") for key in state)
    prefix = {
        ("rgb", False): "", ("rgb", True): "rgb_recoder.",
        ("diff", False): "motion_decoder.", ("diff", True): "motion_decoder.motion_decoder.",
    }[modality, two]  # fmt: skip
    if rest.startswith("encoder.net."):
        inner = rest.removeprefix("encoder.net.")
        theirs = _mobilenetv2(inner).removeprefix("features.") if _is_mobilenetv2(state) else _resnet_children(inner)
        return (f"{prefix}resnet.{theirs}",), _same
    if rest.startswith("reduce."):
        return (f"{prefix}{rest.replace('reduce', 'reduce_conv')}",), lambda t: t.flatten(1) if t.dim() == 4 else t
    if rest.startswith("fc."):
        return (f"{prefix}{rest}",), _same
    decoder = f"{prefix}self_attention_decoder"
    if rest == "position":
        return (f"{decoder}.position_encoding.enc.weight",), _same
    _, layer, part = rest.split(".", 2)
    layer = f"{decoder}.layers.{layer}"
    if part == "qkv.weight":  # (heads, D, d) each
        return tuple(f"{layer}.slf_attn.w_{kind}s" for kind in "qkv"), _merged_heads
    norm = {"weight": "a_2", "bias": "b_2"}
    if part.startswith("attention_norm."):
        return (f"{layer}.slf_attn.layer_norm.{norm[part.split('.')[1]]}",), _same
    if part.startswith("ffn_norm."):
        return (f"{layer}.pos_ffn.layer_norm.{norm[part.split('.')[1]]}",), _same
    _, number, kind = part.split(".")
    return (f"{layer}.pos_ffn.w_{1 if number == '0' else 2}.{kind}",), lambda t: t.squeeze(-1) if t.dim() == 3 else t


def _merged_heads(*weights: Tensor) -> Tensor:
    """Queries, keys and values of each head, (heads, D, d) -> one matrix (3*D, D)."""
    return torch.cat([weight.transpose(1, 2).flatten(0, 1) for weight in weights])


_XVIT = (
    (r"patches\.", "base_model.patch_embed.proj."),
    (r"norm\.", "base_model.norm."),
    (r"layers\.(\d+)\.qkv\.", r"base_model.blocks.\1.attn.qkv."),
    (r"layers\.(\d+)\.out\.", r"base_model.blocks.\1.attn.proj."),
    (r"layers\.(\d+)\.mlp\.0\.", r"base_model.blocks.\1.mlp.fc1."),
    (r"layers\.(\d+)\.mlp\.2\.", r"base_model.blocks.\1.mlp.fc2."),
    (r"layers\.", "base_model.blocks."),
    (r"clip\.class_token", "consensus.cls_token"),
    (r"clip\.mlp\.", "consensus.mlp_head."),
    (r"clip\.layer\.qkv\.", "consensus.temporal_encoder.0.attn.qkv."),
    (r"clip\.layer\.out\.", "consensus.temporal_encoder.0.attn.proj."),
    (r"clip\.layer\.mlp\.0\.", "consensus.temporal_encoder.0.mlp.fc1."),
    (r"clip\.layer\.mlp\.2\.", "consensus.temporal_encoder.0.mlp.fc2."),
    (r"clip\.layer\.", "consensus.temporal_encoder.0."),
)


def _xvit_rule(name: str) -> _Rule:
    if name == "time_position":
        return ("base_model.temp_embed",), lambda t: t.squeeze(0)  # (1, K, 1, D)
    own = {"class_token": "base_model.cls_token", "position": "base_model.pos_embed"}
    if name in own:
        return (own[name],), _same
    for ours, theirs in _XVIT:
        if re.match(ours, name):
            return (re.sub(f"^{ours}", theirs, name),), _same
    return (name,), _same


def _unused(state: State) -> set[str]:
    """What the authors' models hold and never use: the layer that X-ViT's temporal head took the place of."""
    return {name for name in state if "consensus.cls_token" in state and name.startswith("new_fc.")}


def _resnet_children(name: str) -> str:
    """A ResNet's tensor by the places of its children: conv1 is 0, bn1 is 1, layer1 is 4."""
    first, rest = name.split(".", 1)
    place = {"conv1": 0, "bn1": 1, **{f"layer{n}": 3 + n for n in range(1, 5)}}
    return f"{place[first]}.{rest}" if first in place else name


def _is_mobilenetv2(state: State) -> bool:
    return any(re.search(r"(features|resnet)\.1\.conv\.0\.", name) for name in state)


def _mobilenetv2(name: str) -> str:
    """timm's name of a MobileNetV2's tensor -> the original code's."""
    stem = {"conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": "features.18.0", "bn2": "features.18.1"}
    first, rest = name.split(".", 1)
    if first in stem:
        return f"{stem[first]}.{rest}"
    block = re.fullmatch(r"blocks\.(\d)\.(\d)\.(\w+)\.(.+)", name)
    if block is None:
        return name
    level, number, part, kind = block.groups()
    starts = (1, 2, 4, 7, 11, 14, 17)
    slim = {"conv_dw": 0, "bn1": 1, "conv_pw": 3, "bn2": 4}
    full = {"conv_pw": 0, "bn1": 1, "conv_dw": 3, "bn2": 4, "conv_pwl": 6, "bn3": 7}
    place = (slim if level == "0" else full).get(part)
    return name if place is None else f"features.{starts[int(level)] + int(number)}.conv.{place}.{kind}"


def _of_torchvision(name: str) -> tuple[str, str]:
    """What torchvision and the original code call a MobileNetV2's tensor. torchvision puts a convolution together with
    its norm."""
    original = _mobilenetv2(name)
    block = re.fullmatch(r"features\.(\d+)\.conv\.(\d)\.(.+)", original)
    if block is None:
        return original, original
    number, place, kind = int(block[1]), int(block[2]), block[3]
    last = 3 if number == 1 else 6
    inner = f"{place // 3}.{place % 3}" if place < last else f"{place - last + last // 3}"
    return original, f"features.{number}.conv.{inner}.{kind}"


# What stands outside of the blocks, in those that begin with an expansion, and in those that do not.
_OUTSIDE = {
    "conv_stem": "_conv_stem",
    "bn1": "_bn0",
    "conv_head": "_conv_head",
    "bn2": "_bn1",
    "classifier": "_fc",
}
_IN_BOTH = {"conv_dw": "_depthwise_conv", "se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
_EXPANDING = {
    "conv_pw": "_expand_conv", "bn1": "_bn0", "bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2", **_IN_BOTH,
}  # fmt: skip
_PLAIN = {"bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2", **_IN_BOTH}


def _of_efficientnet_pytorch(names: Iterable[str]) -> dict[str, str]:
    """timm's name of a tensor -> what it is called in the package efficientnet_pytorch, which counts blocks through."""
    split = {name: re.fullmatch(r"(?:(blocks\.\d+\.\d+)\.)?(.+)\.(\w+)", name) for name in names}
    blocks = list(dict.fromkeys(found[1] for found in split.values() if found and found[1]))
    expanding = {found[1] for found in split.values() if found and found[2] == "conv_pwl"}
    called = {}
    for name, found in split.items():
        block, module, kind = found.groups() if found else (None, "", "")
        inside = _OUTSIDE if block is None else _EXPANDING if block in expanding else _PLAIN
        place = "" if block is None else f"_blocks.{blocks.index(block)}."
        called[name] = f"{place}{inside.get(module, module)}.{kind}"
    return called
