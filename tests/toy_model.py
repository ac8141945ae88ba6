"""A VideoLightFormer small enough for any test; wider than high, so that no test mistakes one for the other."""

from dataclasses import replace

import torch

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
