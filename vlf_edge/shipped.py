"""The weights that come with the package, by name: to train from, and as fp32 plans to build from without PyTorch."""

from __future__ import annotations

from pathlib import Path

NAMES = ("vlf-tiny", "vlf-tiny-acts")
"""The first knows motion best, and is what all starts from unless told otherwise; the second is of the same sizes and
classes, and has features that tell what people do."""
_FOLDER = Path(__file__).parent / "weights"
WEIGHTS = {name: _FOLDER / f"{name}.safetensors" for name in NAMES}
PLANS = {name: _FOLDER / f"{name}.plan" for name in NAMES}
