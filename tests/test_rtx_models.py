"""Every model in every precision: TensorRT-RTX reads its typed graphs as the plan says, and builds them for all
its targets. The real builder, which needs no GPU; vlf-tiny by target is in test_build.py."""

from __future__ import annotations

import pytest
from conftest import CALIBRATION

from vlf_edge import Plan
from vlf_edge.compiler import Recipe, build
from vlf_edge.compiler.engines import build_engines, resolve_targets
from vlf_edge.models import MODELS

trt = pytest.importorskip("tensorrt_rtx")
DTYPES = {"uint8": trt.DataType.UINT8, "float16": trt.DataType.HALF, "float32": trt.DataType.FLOAT}


@pytest.fixture(scope="module", params=MODELS)
def by_precision(request, tmp_path_factory) -> dict[str, Plan]:
    """Plans of one model with random weights."""
    folder = tmp_path_factory.mktemp(request.param)
    base = folder / "fp16.plan"
    plans = {"fp16": build(Recipe(random_weights=True, model=request.param, precision="fp16", target="cpu"), base)}
    plans["fp32"] = build(Recipe(precision="fp32", target="cpu"), folder / "fp32.plan", base=base, cache_dir=folder)
    recipe = Recipe(precision="int8", calib_data=(CALIBRATION,), calib_samples=16, target="cpu")
    plans["int8"] = build(recipe, folder / "int8.plan", base=base, cache_dir=folder)
    return plans


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_inputs_and_outputs_are_those_of_the_plan(by_precision, precision):
    plan = by_precision[precision]
    for stage in plan.manifest.stages:
        builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
        assert parser.parse(plan.graph(stage, "typed"))
        graph = plan.manifest.graph(stage, "typed")
        for specs, tensors in (
            (graph.inputs, [network.get_input(i) for i in range(network.num_inputs)]),
            (graph.outputs, [network.get_output(i) for i in range(network.num_outputs)]),
        ):
            said = [(s.name, DTYPES[s.dtype], (-1, *s.shape[1:])) for s in specs]
            assert [(t.name, t.dtype, tuple(t.shape)) for t in tensors] == said


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_engines_build_for_every_target(by_precision, precision):
    plan = by_precision[precision]
    typed = {stage: plan.graph(stage, "typed") for stage in plan.manifest.stages}
    built = build_engines(typed, resolve_targets("rtx,rtx-turing"))
    assert [(info.stage, info.target) for info, _ in built] == [
        (stage, target) for stage in plan.manifest.stages for target in ("rtx", "rtx-turing")
    ]
    assert {capability for info, _ in built for capability in info.compute_capabilities} == {
        "7.5", "8.0", "8.6", "8.9", "12.0", "12.1+"
    }  # fmt: skip
    assert all(data[:4] == b"vtrt" for _, data in built)


def test_fp32_engines_build_for_all_but_turing(by_precision):
    """Turing has no float32 matrix products in TensorRT-RTX: test_engines.py has its error."""
    plan = by_precision["fp32"]
    built = build_engines({s: plan.graph(s, "typed") for s in plan.manifest.stages}, resolve_targets("rtx"))
    assert {info.compute_capabilities for info, _ in built} == {("8.0", "8.6", "8.9", "12.0", "12.1+")}
    assert all(data[:4] == b"vtrt" for _, data in built)
