"""Small hand-made ONNX graphs for the compiler's tests: every kind of layer the quantiser has to tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from vlf_edge import Manifest, Plan, Preprocess, Sampling
from vlf_edge.compiler import graph
from vlf_edge.compiler.quantization.quantize import activations, quantize
from vlf_edge.compiler.quantization.ranges import collect_ranges
from vlf_edge.manifest import Graph

OPSET = 20
FLOAT = TensorProto.FLOAT


def model_bytes(nodes, inputs, outputs, constants, opset=OPSET):
    """ONNX bytes. inputs, outputs: {name: (element type, shape)}; constants: {name: array}."""
    values = [[helper.make_tensor_value_info(n, *v) for n, v in side.items()] for side in (inputs, outputs)]
    graph = helper.make_graph(
        nodes, "toy", *values, initializer=[numpy_helper.from_array(a, n) for n, a in constants.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return model.SerializeToString(deterministic=True)


def frame_toy(seed=0):
    """image uint8 (N, 8, 8, 3) -> tokens float32 (N, 16, 8): plain, grouped and depthwise Conv, residual Add."""
    rng = np.random.default_rng(seed)

    def w(*shape):
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    constants = {
        "mean": np.full((3, 1, 1), 120, np.float32),
        "std": np.full((3, 1, 1), 60, np.float32),
        "stem.w": w(8, 3, 3, 3) * np.linspace(0.1, 3, 8, dtype=np.float32).reshape(-1, 1, 1, 1),
        "stem.b": w(8, 1)[:, 0],
        "dw.w": w(8, 1, 3, 3),
        "grouped.w": w(8, 4, 1, 1),
        "flat": np.array([0, 8, -1], np.int64),
        "ln.w": np.ones(8, np.float32),
        "ln.b": np.zeros(8, np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["pixels"], "cast", to=TensorProto.FLOAT),
        node("Transpose", ["pixels"], ["chw"], "chw", perm=[0, 3, 1, 2]),
        node("Sub", ["chw", "mean"], ["centred"], "sub"),
        node("Div", ["centred", "std"], ["x"], "div"),
        node("Conv", ["x", "stem.w", "stem.b"], ["stem"], "stem", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["stem"], ["act"], "relu"),
        node("Conv", ["act", "dw.w"], ["dw"], "dw", group=8, pads=[1, 1, 1, 1]),
        node("Conv", ["act", "grouped.w"], ["grouped"], "grouped", group=2),
        node("Add", ["dw", "grouped"], ["both"], "both"),
        node("Add", ["both", "act"], ["res"], "residual"),
        node("Reshape", ["res", "flat"], ["rows"], "reshape"),
        node("Transpose", ["rows"], ["seq"], "transpose", perm=[0, 2, 1]),
        node("LayerNormalization", ["seq", "ln.w", "ln.b"], ["tokens"], "ln"),
    ]
    inputs, outputs = {"image": (TensorProto.UINT8, ["N", 8, 8, 3])}, {"tokens": (TensorProto.FLOAT, ["N", 16, 8])}
    return model_bytes(nodes, inputs, outputs, constants)


def clip_toy(seed=1, classes=5):
    """tokens float32 (N, 2, 16, 8) -> logits float32 (N, 5): MatMul, attention, LayerNorm, Gemm of both layouts."""
    rng = np.random.default_rng(seed)

    def w(*shape):
        return (rng.standard_normal(shape) / np.sqrt(8)).astype(np.float32)

    constants = {
        "joint": np.array([0, 32, 8], np.int64),
        "q.w": w(8, 8), "k.w": w(8, 8), "v.w": w(8, 8), "fc.w": w(16, 8), "head.w": w(16, classes),
        "fc.b": w(16), "head.b": w(classes), "root": np.float32(np.sqrt(8)),
        "ln.w": np.ones(8, np.float32), "ln.b": np.zeros(8, np.float32), "one": np.array([1], np.int64),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Reshape", ["tokens", "joint"], ["x"], "reshape"),
        node("LayerNormalization", ["x", "ln.w", "ln.b"], ["normed"], "ln"),
        node("MatMul", ["normed", "q.w"], ["q"], "q"),
        node("MatMul", ["normed", "k.w"], ["k"], "k"),
        node("MatMul", ["normed", "v.w"], ["v"], "v"),
        node("Transpose", ["k"], ["kt"], "kt", perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["raw"], "scores"),
        node("Div", ["raw", "root"], ["scaled"], "scale"),
        node("Softmax", ["scaled"], ["p"], "softmax", axis=-1),
        node("MatMul", ["p", "v"], ["attended"], "values"),
        node("Add", ["x", "attended"], ["res"], "residual"),
        node("ReduceMean", ["res", "one"], ["pooled"], "mean", keepdims=0),
        node("Gemm", ["pooled", "fc.w", "fc.b"], ["hidden"], "fc", transB=1),
        node("Relu", ["hidden"], ["act"], "relu"),
        node("Gemm", ["act", "head.w", "head.b"], ["logits"], "head"),
    ]
    inputs = {"tokens": (TensorProto.FLOAT, ["N", 2, 16, 8])}
    return model_bytes(nodes, inputs, {"logits": (TensorProto.FLOAT, ["N", classes])}, constants)


def images(count, seed=0):
    """(count, 8, 8, 3) uint8 of smooth content."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 256, (count, 2, 2, 3)).astype(np.float64)
    t = np.linspace(0, 1, 8)
    rows = np.stack([1 - t, t])
    return np.einsum("nabc,ai,bj->nijc", corners, rows, rows).astype(np.uint8)


def tokens(count=6, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 2, 16, 8)).astype(np.float32)


TOYS = {
    "frame": (frame_toy(), {"image": images(6)}),
    "clip": (clip_toy(), {"tokens": tokens()}),
}


def ranges_of(name):
    data, feed = TOYS[name]
    return collect_ranges(data, activations(data), [feed], "minmax")


def quantized(name, **options):
    return quantize(TOYS[name][0], ranges_of(name), **options)


def run(data, feed):
    return next(iter(graph.Session(data).run(feed).values())).astype(np.float32)


def relative(a, b):
    return np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(a)


def write_fp32_plan(path: Path, model: dict[str, Any], labels: Sequence[str]) -> Path:
    """An fp32 plan of frame_toy and clip_toy, of weights that were never trained."""
    members = {"frame.fp32.onnx": frame_toy(), "clip.fp32.onnx": clip_toy(classes=len(labels))}
    graphs = tuple(
        Graph(stage, kind, f"{stage}.fp32.onnx", *graph.tensor_specs(members[f"{stage}.fp32.onnx"]))
        for stage in ("frame", "clip")
        for kind in ("fp32", "portable", "typed")
    )
    manifest = Manifest(
        model=model,
        labels=tuple(labels),
        preprocess=Preprocess(8, 8, 8),
        sampling=Sampling(2, 0.5),
        precision="fp32",
        stages=("frame", "clip"),
        graphs=graphs,
        weights={"origin": "random", "seed": 0},
    )
    Plan.write(path, manifest, members, {})
    return path
