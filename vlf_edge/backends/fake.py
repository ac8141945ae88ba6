"""An engine without a library: the right shapes and dtypes, answers that are simple, exact and easy to predict.

For tests of everything around the engines, here and in programs that use vlf_edge.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from ..errors import PlanMismatch, VlfError
from ..onnx_graph import read_graph
from ..types import TensorSpec
from .engine import Engine


class FakeEngine(Engine):
    """Stands in for one stage; a batch of N gives the same bits as N runs of one.

    A uint8 input of four axes is a frame stage: ``fake_tokens``. One of (N, K, S, D) floats is a clip stage:
    ``fake_logits``. One of (N, K, H, W, 3) uint8 is both in one. A second output of a clip stage is its features,
    which are ``fake_logits`` of so many classes.
    fail_on_call: number of the call, from 1, that raises VlfError. delay_s: what every call takes, in seconds.
    """

    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        max_batch: int | None = None,
        fail_on_call: int | None = None,
        delay_s: float = 0.0,
    ):
        super().__init__("fake", inputs, outputs, max_batch)
        if len(inputs) != 1 or not 1 <= len(outputs) <= 2 or not 4 <= len(inputs[0].shape) <= 5:
            raise PlanMismatch(
                f"a fake engine takes one image or token input and gives one output or two, got {self!r}"
            )
        self.fail_on_call = fail_on_call
        self.delay_s = delay_s
        self.calls = 0
        self.frames = 0

    def _infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls += 1
        if self.calls == self.fail_on_call:
            raise VlfError(f"the fake engine fails on call {self.calls}, as it was told to")
        if self.delay_s:
            time.sleep(self.delay_s)
        (given,) = inputs.values()
        self.frames += given.shape[0]
        return {s.name: np.stack([self._one(sample, s) for sample in given]).astype(s.dtype) for s in self.outputs}

    def _one(self, sample: np.ndarray, spec: TensorSpec) -> np.ndarray:
        if sample.dtype != np.uint8:
            return fake_logits(sample, spec.shape[-1])
        if sample.ndim == 3:
            return fake_tokens(sample, *spec.shape[-2:])
        return fake_logits(np.stack([fake_tokens(image, 4, 8) for image in sample]), spec.shape[-1])


def fake_tokens(image: np.ndarray, tokens: int, channels: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (S, D) float64 in 0..1: mean colours of S horizontal bands.

    Channel d is colour d % 3 divided by 1 + d // 3.
    """
    edges = np.linspace(0, image.shape[0], tokens + 1).astype(int)
    bands = [image[top : max(bottom, top + 1)].mean(axis=(0, 1)) / 255 for top, bottom in zip(edges, edges[1:])]
    channel = np.arange(channels)
    return np.stack(bands)[:, channel % 3] / (1 + channel // 3)


def fake_logits(tokens: np.ndarray, classes: int) -> np.ndarray:
    """(K, S, D) -> (C,) float64: linear in the tokens, and different for every order of the K frames."""
    frames, _, channels = tokens.shape
    means = tokens.astype(np.float64).mean(axis=1)  # (K, D)
    k, d, c = np.ogrid[1 : frames + 1, 1 : channels + 1, 1 : classes + 1]
    return np.einsum("kd,kdc->c", means, np.cos(k * c + d))


class FakeGraphEngine(FakeEngine):
    """Has the inputs and outputs of an ONNX graph, and computes nothing of it."""

    def __init__(self, onnx_bytes: bytes, *, precision: str = "fp32", threads: int | None = None):
        graph = read_graph(onnx_bytes, "the graph")
        super().__init__(graph.inputs, graph.outputs)
