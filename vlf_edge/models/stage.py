"""What a model offers to export: modules with named, typed inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn

from ..types import TensorSpec

BATCH_AXIS = "N"  # the one dynamic axis of every stage


@dataclass(frozen=True)
class Stage:
    """One graph of a model: "frame" sees single images, "clip" sees all frames of a window.

    module: takes ``inputs`` in this order as positional tensors and returns ``outputs`` (one tensor if there is one).
    The string "N" in a shape is the dynamic batch axis; every other axis is fixed. state: input -> the output that is
    to be it for the next frame of a stream.
    """

    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every submodule's own mode again after."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
