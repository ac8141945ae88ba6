"""A VideoLightFormer small enough for any test; wider than high, so that no test mistakes one for the other."""

from dataclasses import replace

import torch
from torch import nn

from vlf_edge.models.vlf import SIZES, VLF

TOY = replace(
    SIZES["vlf-tiny"], token_dim=16, spatial_heads=2, temporal_layers=1, temporal_heads=4, frames=3,
    height_px=32, width_px=64, classes=4, backbone_options={"channels": (8, 8, 16), "layers": (1, 1, 1)},
)  # fmt: skip


def build_toy(sizes=TOY) -> VLF:
    """Fresh weights, the same every time, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return sizes.build()


@torch.no_grad()
def lively(model: VLF) -> VLF:
    """As after training: no BatchNorm is the identity, no bias zero, some of their gains are negative or zero."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.uniform_(-1.5, 1.5, generator=generator)
            module.weight[0] = 0
        if getattr(module, "bias", None) is not None:
            module.bias.normal_(0, 0.2, generator=generator)
    return model


def build_uneven(sizes=TOY) -> VLF:
    """A lively one whose LayerNorms scale each channel otherwise, too."""
    model, generator = lively(build_toy(sizes)), torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
    return model
