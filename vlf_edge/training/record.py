"""What the weights say about their training."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import shipped
from .._version import __version__
from ..software import versions_of
from .validate import Scores

_PACKAGES = ("torch", "timm", "numpy", "opencv-python")


def scores_of(scores: Scores, labels: Sequence[str]) -> dict[str, Any]:
    """Plain JSON values of the record's entry "val"."""
    recall = {label: None if share is None else round(share, 4) for label, share in zip(labels, scores.recall)}
    values = {name: getattr(scores, name) for name in ("top1", "loss", "clips", "chance")}
    return {**values, "recall": recall}


def rank(record: dict[str, Any]) -> tuple[float, float]:
    """Greater for better weights: by top-1, among equals by loss."""
    return record["val"]["top1"], -record["val"]["loss"]


def software() -> dict[str, str]:
    """Versions of what computed a run."""
    return {"vlf_edge": __version__, "python": platform.python_version(), **versions_of(*_PACKAGES)}


def files(paths: Sequence[str]) -> list[dict[str, str]]:
    """Weights files a run used, by name and SHA-256."""
    found = [shipped.WEIGHTS.get(path, Path(path)) for path in paths]
    return [{"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in found]
