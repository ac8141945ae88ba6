"""Networks of timm by name: one feature map of an image, as the CNN f of the VLF paper, or one vector."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from ..errors import VlfError, WeightsError, one_line
from .model import Normalise

# Options arrive from weights files too: whatever chooses the network's source, files or outputs is not an option.
_RESERVED_OPTIONS = frozenset(inspect.signature(timm.create_model).parameters) | {
    "features_only", "out_indices", "feature_cfg", "feature_cls", "in_chans", "num_classes", "device", "dtype",
    "model_cfg", "pretrained_strict", "pretrained_filter_fn", "pretrained_model_args", "kwargs_filter",
}  # fmt: skip


class Backbone(nn.Module):
    """f: images (N, 3, H, W) float32, normalised RGB -> one feature map (N, channels, H/r, W/r), r = ``reduction``.

    name: of a timm model, such as "efficientnet_b0". options: extra keyword options of that timm model.
    height_px, width_px: of the images, to measure the map. pretrained: fetch timm's weights.
    channels, map_size (height, width): of the feature map. mean, std: RGB, of images scaled to 0..1.
    Raises VlfError for an unknown name, option or reduction, WeightsError if pretrained weights cannot be had.
    """

    def __init__(
        self,
        name: str,
        reduction: int,
        options: dict[str, Any],
        height_px: int,
        width_px: int,
        pretrained: bool = False,
    ):
        super().__init__()
        _check_request(name, options, pretrained)
        levels = _create(name, options, features_only=True, out_indices=(0,)).feature_info.info
        reductions = [level["reduction"] for level in levels]
        if reduction not in reductions:
            offered = ", ".join(map(str, sorted(set(reductions))))
            raise VlfError(f"backbone {name!r} has no feature map of reduction {reduction}; available: {offered}")
        index = len(reductions) - 1 - reductions[::-1].index(reduction)  # the deepest map of that size
        self.net = _create(name, options, pretrained, features_only=True, out_indices=(index,))
        self.channels = int(levels[index]["num_chs"])
        self.channels_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"
        self.mean, self.std = _mean_and_std(self.net)
        self.map_size = _map_size(self, self, name, self.channels, height_px, width_px)

    def forward(self, images: Tensor) -> Tensor:
        features = self.net(images)[0]
        return features.permute(0, 3, 1, 2) if self.channels_last else features  # (N, channels, h, w)


class Encoder(nn.Module):
    """Images (N, H, W, 3) uint8 BGR -> one vector each, (N, channels) float32: the mean over the network's last map.

    name, options, height_px, width_px, pretrained: as for ``Backbone``. Raises VlfError, WeightsError.
    """

    def __init__(self, name: str, options: dict[str, Any], height_px: int, width_px: int, pretrained: bool = False):
        super().__init__()
        _check_request(name, options, pretrained)
        self.net = _create(name, options, pretrained, num_classes=0, global_pool="")
        if isinstance(self.net, timm.models.ResNet) and not hasattr(self.net, "layer4"):
            self.net.layer4 = nn.Identity()  # timm makes ResNets of three levels, and then asks for the fourth
        self.normalise = Normalise(*_mean_and_std(self.net))
        self.channels = int(self.net.num_features)
        _map_size(self.net, self.net.forward_features, name, self.channels, height_px, width_px)

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.normalise(images))

    def pool(self, normalised: Tensor) -> Tensor:
        """The same of images that are normalised, (N, 3, H, W) float32 RGB."""
        return self.net.forward_features(normalised).mean(dim=(2, 3))


@torch.no_grad()
def _map_size(
    module: nn.Module, mapped: Callable[[Tensor], Tensor], name: str, channels: int, height_px: int, width_px: int
) -> tuple[int, int]:
    """Height and width of the map, from one image: networks round odd sizes each in its own way."""
    mode = module.training
    module.eval()
    try:
        shape = mapped(torch.zeros(1, 3, height_px, width_px)).shape
    except Exception as error:
        size = f"{width_px}x{height_px} px"
        raise VlfError(f"backbone {name!r} does not take {size} images: {_line(error)}") from error
    finally:
        module.train(mode)
    if len(shape) != 4 or shape[1] != channels:
        raise VlfError(f"backbone {name!r} gives a map of shape {tuple(shape)}, expected {channels} channels")
    return int(shape[2]), int(shape[3])


def _mean_and_std(net: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    config = getattr(net, "pretrained_cfg", None) or {}
    return (
        tuple(map(float, config.get("mean") or IMAGENET_DEFAULT_MEAN)),
        tuple(map(float, config.get("std") or IMAGENET_DEFAULT_STD)),
    )


def _check_request(name: str, options: dict[str, Any], pretrained: bool) -> None:
    """Only networks that timm itself defines, never a hub or a folder: those could bring code or files along."""
    architecture = name.split(".")[0]
    if not timm.is_model(architecture) or ":" in name:
        close = difflib.get_close_matches(architecture, timm.list_models(), n=5, cutoff=0.5)
        hint = f"close names: {', '.join(close)}" if close else "timm.list_models() gives all names"
        raise VlfError(f"timm has no model {name!r}; {hint}")
    reserved = sorted(_RESERVED_OPTIONS & set(options))
    if reserved:
        raise VlfError(f"backbone options cannot set {', '.join(reserved)}; they are for the network's own options")
    if pretrained and options:
        raise WeightsError(
            f"timm has no pretrained weights for backbone {name!r} with the sizes {options}; take a model with a "
            "standard one, such as vlf-lite, or name one with --backbone"
        )


def _create(name: str, options: dict[str, Any], pretrained: bool = False, **form: Any) -> nn.Module:
    """The timm network. form: what of it; layers past that are cut off by timm."""
    try:
        return timm.create_model(name, pretrained=pretrained, **form, **options)
    except Exception as error:
        if pretrained:
            raise WeightsError(
                f"the pretrained weights of backbone {name!r} could not be loaded ({_line(error)}); "
                "go online once, or start from trained weights with --from FILE"
            ) from error
        raise VlfError(f"timm cannot make a feature extractor of {name!r} with {options}: {_line(error)}") from error


def _line(error: Exception) -> str:
    """An exception, with its class, in one line."""
    text = one_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
