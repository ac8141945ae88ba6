"""Every kind of model, small enough for tests: a narrow ResNet on images of 32 px."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vlf_edge.models import sizes_of
from vlf_edge.models.sizes import Sizes

LABELS = ("left", "right", "up", "down", "still")
_NARROW = {"channels": (8, 16, 16, 32), "layers": (1, 1, 1, 1), "stem_width": 8}
_DECODER: dict[str, Any] = {"token_dim": 32, "layers": 1, "heads": 4}
_SMALLER = {
    "tsn": {},
    "tsm": {},
    "tsm-online": {},
    "vtn": _DECODER,
    "vtn-diff": _DECODER,
    "vtn-two-stream": _DECODER,
    "xvit": {"token_dim": 32, "layers": 2, "heads": 4},
}
KINDS = tuple(_SMALLER)


def toy_sizes(kind: str, **changes: Any) -> Sizes:
    """The sizes of one of ``KINDS``, as narrow as they go: 4 frames, 5 classes."""
    sizes = replace(sizes_of(kind), classes=len(LABELS), frames=4, height_px=32, width_px=32)
    if kind != "xvit":
        sizes = replace(sizes, backbone="resnet10t", backbone_options=_NARROW)
    return replace(sizes, **{**_SMALLER[kind], **changes})
