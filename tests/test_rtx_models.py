"""VLF on a dense and on a depthwise f, in every precision: TensorRT-RTX reads its typed graphs as the plan says, and
builds them for all its targets. The real builder, which needs no GPU; vlf-tiny for single GPUs is in test_build.py."""

from __future__ import annotations

import numpy as np
import pytest

from vlf_edge.compiler.engines import build_engines, resolve_targets
from vlf_edge.compiler.graph import Session, tensor_specs
from vlf_edge.compiler.quantization.float16 import to_float16
from vlf_edge.compiler.quantization.quantize import activations, quantize
from vlf_edge.compiler.quantization.ranges import collect_ranges

trt = pytest.importorskip("tensorrt_rtx")
pytestmark = pytest.mark.slow
DTYPES = {"uint8": trt.DataType.UINT8, "float16": trt.DataType.HALF, "float32": trt.DataType.FLOAT}
STAGES = ["frame", "clip"]


@pytest.fixture(scope="module", params=["vlf", "vlf-tiny"])
def by_precision(request, exported_graphs) -> dict[str, dict[str, bytes]]:
    """Typed graphs by precision and stage: what a build gives to TensorRT-RTX, less the proof that they are right."""
    exported = exported_graphs(request.param)
    (image,), _ = tensor_specs(exported["frame"])
    (window,), _ = tensor_specs(exported["clip"])
    images = np.random.default_rng(0).integers(0, 256, (window.shape[1], *image.shape[1:]), np.uint8)
    (tokens,) = Session(exported["frame"]).run({"image": images}).values()
    int8 = {}
    for stage, feed in (("frame", {"image": images}), ("clip", {"tokens": tokens[np.newaxis]})):
        ranges = collect_ranges(exported[stage], activations(exported[stage]), [feed], "minmax")
        int8[stage] = to_float16(quantize(exported[stage], ranges).onnx)
    return {"fp32": exported, "fp16": {stage: to_float16(exported[stage]) for stage in STAGES}, "int8": int8}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_inputs_and_outputs_are_those_of_the_plan(by_precision, precision):
    for typed in by_precision[precision].values():
        builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
        assert parser.parse(typed)
        inputs, outputs = tensor_specs(typed)  # which a build writes into the manifest
        for specs, tensors in (
            (inputs, [network.get_input(i) for i in range(network.num_inputs)]),
            (outputs, [network.get_output(i) for i in range(network.num_outputs)]),
        ):
            said = [(s.name, DTYPES[s.dtype], (-1, *s.shape[1:])) for s in specs]
            assert [(t.name, t.dtype, tuple(t.shape)) for t in tensors] == said


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_engines_build_for_every_target(by_precision, precision):
    built = build_engines(by_precision[precision], resolve_targets("rtx,rtx-turing"))
    assert [(info.stage, info.target) for info, _ in built] == [
        (stage, target) for stage in STAGES for target in ("rtx", "rtx-turing")
    ]
    assert {capability for info, _ in built for capability in info.compute_capabilities} == {
        "7.5", "8.0", "8.6", "8.9", "12.0", "12.1+"
    }  # fmt: skip
    assert all(data[:4] == b"vtrt" for _, data in built)


def test_fp32_engines_build_for_all_but_turing(by_precision):
    """Turing has no float32 matrix products in TensorRT-RTX: test_engines.py has its error."""
    built = build_engines(by_precision["fp32"], resolve_targets("rtx"))
    assert {info.compute_capabilities for info, _ in built} == {("8.0", "8.6", "8.9", "12.0", "12.1+")}
    assert all(data[:4] == b"vtrt" for _, data in built)
