"""What is built for a machine that a plan has no engine for, what is kept of it, and what is said."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
from machines import ALL, AMPERE, BLACKWELL, HOPPER, LATER, ORIN, TURING, VOLTA, given, plan_with
from toy_graphs import toy_clip, toy_frame

from vlf_edge.backends.selection import open_engines
from vlf_edge.errors import CompileError, PlanMismatch, VlfError


@pytest.mark.parametrize(
    ("targets", "libraries", "gpu", "want", "built_for"),
    [
        (("rtx",), ALL, AMPERE, "tensorrt_rtx", None),
        (("rtx",), ALL, TURING, "tensorrt", ()),
        (("rtx",), ("tensorrt_rtx", "openvino"), TURING, "tensorrt_rtx", ("7.5",)),
        (("rtx-turing",), ("tensorrt_rtx", "openvino"), AMPERE, "tensorrt_rtx", ("8.6",)),
        (("rtx",), ("tensorrt", "openvino"), AMPERE, "tensorrt", ()),
        (("tensorrt",), ALL, HOPPER, "tensorrt", None),
        (("tensorrt",), ("tensorrt_rtx", "openvino"), HOPPER, "tensorrt_rtx", ()),  # the library says whether it fits
        (("rtx",), ALL, HOPPER, "tensorrt", ()),
        (("tensorrt", "rtx"), ALL, AMPERE, "tensorrt_rtx", None),
        ((), ALL, AMPERE, "tensorrt", ()),
        ((), ("tensorrt_rtx", "openvino"), AMPERE, "tensorrt_rtx", ("8.6",)),
        ((), ("tensorrt_rtx", "openvino"), BLACKWELL, "tensorrt_rtx", ("12.1",)),
        ((), ("tensorrt_rtx",), AMPERE, "tensorrt_rtx", ("8.6",)),
        ((), ("tensorrt_rtx", "openvino"), HOPPER, "tensorrt_rtx", ()),
        ((), ("tensorrt_rtx", "openvino"), VOLTA, "openvino", None),
        (("rtx",), ("tensorrt_rtx", "openvino"), BLACKWELL, "tensorrt_rtx", None),
        (("rtx",), ("tensorrt_rtx", "openvino"), LATER, "tensorrt_rtx", None),
        ((), ALL, ORIN, "tensorrt", ()),
        ((), ALL, None, "openvino", None),
        ((), ("openvino",), AMPERE, "openvino", None),
    ],
)
def test_auto_builds_what_the_plan_lacks(tmp_path, machine, targets, libraries, gpu, want, built_for):
    here = machine(*libraries, gpu=gpu)
    engines = open_engines(plan_with(tmp_path, *targets))
    assert {engine.backend for engine in engines.values()} == {want}
    if built_for is None:
        assert here.builds == []
    else:
        batch = 4 if targets else 8
        workspace = gpu.memory_bytes // 8 if gpu.integrated else None
        options = {"library": want, "max_batch": batch, "opt_batch": 1, "compute_capabilities": built_for}
        options["workspace_bytes"] = workspace
        assert here.builds == [(b"frame", options), (b"clip", options)]
        assert given(engines) == ["built 1 of frame", "built 2 of clip"]


def test_an_rtx_library_without_a_gpus_own_target_builds_the_engine_for_many(tmp_path, machine):
    here = machine("tensorrt_rtx", gpu=BLACKWELL, has_sm121=False)
    open_engines(plan_with(tmp_path))
    assert {options["compute_capabilities"] for _, options in here.builds} == {()}


def test_what_was_built_is_read_at_the_next_start(tmp_path, machine, said):
    here = machine("tensorrt_rtx", "openvino", gpu=TURING)
    plan = plan_with(tmp_path, "rtx")
    first = given(open_engines(plan))
    (sentence,) = said()
    assert sentence == (
        f"{plan.path} has frame.rtx.engine built for compute capability 8.0, 8.6, 8.9, 12.0, 12.1+ with tensorrt_rtx "
        "1.2.3, found here: RTX 2060 (compute capability 7.5) with tensorrt_rtx 1.2.3; building engines for RTX 2060 "
        f"(compute capability 7.5) with tensorrt_rtx 1.2.3, which takes a while, to be kept in {here.cache}"
    )
    assert given(open_engines(plan)) == first and len(here.builds) == 2
    (sentence,) = said()
    assert sentence.startswith(f"{plan.path} has frame.rtx.engine built for compute capability 8.0")
    found = "RTX 2060 (compute capability 7.5) with tensorrt_rtx 1.2.3"
    assert sentence.endswith(f"; running engines built earlier for {found}, from {here.cache}")


def test_a_plan_without_engines_says_so_before_it_builds(tmp_path, machine, said):
    machine(*ALL, gpu=AMPERE)
    plan = plan_with(tmp_path)
    open_engines(plan)
    (sentence,) = said()
    assert sentence.startswith(f"{plan.path} has no engine for a GPU; building engines for RTX A2000 ")


def test_always_builds_anew_and_refreshes_what_is_kept(tmp_path, machine, said):
    here = machine(*ALL, gpu=HOPPER)
    plan = plan_with(tmp_path, "tensorrt")
    assert given(open_engines(plan)) == ["frame.tensorrt.engine", "clip.tensorrt.engine"]
    assert given(open_engines(plan, rebuild="always")) == ["built 1 of frame", "built 2 of clip"]
    (sentence,) = said()
    assert sentence.startswith("a rebuild was asked for; building engines for H100 (compute capability 9.0) with tens")
    second = open_engines(plan, backend="tensorrt", rebuild="always")
    assert given(second) == ["built 3 of frame", "built 4 of clip"]
    machine(*ALL, gpu=HOPPER, refuses=b"tensorrt.engine")
    assert given(open_engines(plan)) == given(second) and len(here.builds) == 4


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_never_reads_nothing_that_was_built_either(tmp_path, machine, backend):
    machine(*ALL, gpu=AMPERE)
    plan = plan_with(tmp_path)
    open_engines(plan)
    if backend == "auto":
        assert {engine.backend for engine in open_engines(plan, rebuild="never").values()} == {"openvino"}
    else:
        with pytest.raises(PlanMismatch, match="no tensorrt engine of stage 'frame'"):
            open_engines(plan, backend=backend, rebuild="never")


def test_an_engine_is_kept_for_what_it_depends_on(tmp_path, machine):
    """Another graph, version or (for TensorRT) model of GPU builds anew; TensorRT-RTX does not care for the model."""
    sibling = replace(AMPERE, name="RTX A4000")
    for library, gpu, version, graph, builds in (
        ("tensorrt", AMPERE, "1.2.3", b"frame", 2),
        ("tensorrt", AMPERE, "1.2.3", b"frame", 2),
        ("tensorrt", sibling, "1.2.3", b"frame", 4),
        ("tensorrt", AMPERE, "1.2.4", b"frame", 6),
        ("tensorrt", AMPERE, "1.2.3", b"other", 7),
        ("tensorrt_rtx", AMPERE, "1.2.3", b"frame", 9),
        ("tensorrt_rtx", sibling, "1.2.3", b"frame", 9),
        ("tensorrt_rtx", BLACKWELL, "1.2.3", b"frame", 11),
        ("tensorrt_rtx", AMPERE, "1.2.4", b"frame", 13),
    ):
        here = machine(library, gpu=gpu, version=version)
        open_engines(plan_with(tmp_path, frame=graph))
        assert len(here.builds) == builds, (library, gpu, version, graph)


@pytest.mark.parametrize(
    ("version", "device", "told"), [("1.2.3", "H100", False), ("1.2.4", "", True), ("1.2.3", "H200", True)]
)
def test_a_tensorrt_engine_of_another_version_or_model_is_tried_and_told(
    tmp_path, machine, said, version, device, told
):
    machine(*ALL, gpu=HOPPER, version=version)
    plan = plan_with(tmp_path, "tensorrt", device=device)
    assert given(open_engines(plan)) == ["frame.tensorrt.engine", "clip.tensorrt.engine"]
    sentences = said()
    assert len(sentences) == told
    if told:
        where = f" on {device}" if device else ""
        assert sentences[0] == (
            f"frame.tensorrt.engine built for compute capability 9.0 with tensorrt 1.2.3{where} runs here too, on H100 "
            f"(compute capability 9.0) with tensorrt {version}; add an engine for this GPU with: vlf-edge build "
            f"{plan.path} --target tensorrt"
        )
    here = machine(*ALL, gpu=HOPPER, version=version, refuses=b"clip.tensorrt.engine")
    assert given(open_engines(plan)) == ["built 1 of frame", "built 2 of clip"]
    sentence = said()[-1]
    assert sentence.startswith("clip.tensorrt.engine built for compute capability 9.0 with tensorrt 1.2.3")
    assert "tensorrt refuses this engine: wrong SM; building engines for H100" in sentence
    assert here.opened[-3]._closed, "the frame engine that did open"


def test_a_kept_engine_that_is_refused_or_damaged_is_built_anew(tmp_path, machine, said):
    here = machine(*ALL, gpu=AMPERE)
    plan = plan_with(tmp_path)
    open_engines(plan)
    machine(*ALL, gpu=AMPERE, refuses=b"built 1")
    assert given(open_engines(plan)) == ["built 3 of frame", "built 2 of clip"]
    assert any("is built anew: tensorrt refuses this engine" in sentence for sentence in said())
    for path in here.cache.glob("*.engine"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert given(open_engines(plan)) == ["built 4 of frame", "built 5 of clip"]
    assert len([sentence for sentence in said() if "is damaged and is made anew" in sentence]) == 2


def test_what_cannot_be_built_runs_on_the_cpu_and_says_why(tmp_path, machine, said):
    here = machine("tensorrt_rtx", "openvino", gpu=TURING, unbuildable="FP32 GEMM is not supported; use fp16")
    plan = plan_with(tmp_path)
    assert {engine.backend for engine in open_engines(plan).values()} == {"openvino"}
    assert len(here.builds) == 1
    told = f"running on the CPU with openvino: cannot build stage 'frame' of {plan.path}: FP32 GEMM is not supported"
    assert said()[-1] == f"{told}; use fp16"
    with pytest.raises(CompileError, match="no tensorrt_rtx engine of stage 'frame'.*; cannot build .*; use fp16"):
        open_engines(plan, backend="tensorrt_rtx")
    machine("tensorrt_rtx", "openvino", gpu=VOLTA)
    open_engines(plan)
    assert said()[-1].endswith(
        "tensorrt_rtx 1.2.3 does not build for V100 (compute capability 7.0), only for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1"
    )


def test_a_built_engine_that_does_not_run_leaves_the_cpu(tmp_path, machine, said):
    machine("tensorrt", "openvino", gpu=AMPERE, refuses=b"built")
    assert {engine.backend for engine in open_engines(plan_with(tmp_path)).values()} == {"openvino"}
    assert "engine of stage 'frame' that was built here does not run: tensorrt refuses" in said()[-1]
    with pytest.raises(CompileError, match="that was built here does not run: tensorrt refuses this engine: wrong SM"):
        open_engines(plan_with(tmp_path), backend="tensorrt")


def test_a_full_gpu_is_no_reason_to_build(tmp_path, machine, said):
    here = machine(*ALL, gpu=AMPERE, full=True)
    assert {engine.backend for engine in open_engines(plan_with(tmp_path, "rtx")).values()} == {"openvino"}
    assert here.builds == []
    assert said() == ["running on the CPU with openvino: CUDA could not allocate 9 bytes on the GPU"]


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_the_engines_are_told_about_the_cuda_graph(tmp_path, machine, cuda_graph):
    machine(*ALL, gpu=AMPERE)
    for targets in ((), ("rtx",)):
        engines = open_engines(plan_with(tmp_path, *targets), cuda_graph=cuda_graph)
        assert {engine.cuda_graph for engine in engines.values()} == {cuda_graph}


def test_an_unknown_rebuild_names_those_there_are(tmp_path):
    with pytest.raises(VlfError, match="rebuild is 'sometimes'; expected never, auto, always"):
        open_engines(plan_with(tmp_path), rebuild="sometimes")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_a_plan_is_really_rebuilt_from_its_own_graphs(tmp_path, machine):
    here = machine("tensorrt_rtx", gpu=TURING)
    plan = plan_with(tmp_path, frame=toy_frame("float16"), clip=toy_clip("float16"))
    built = given(open_engines(plan))
    assert all(len(data) > 10_000 and data[:4] == "vtrt" for data in built)
    assert given(open_engines(plan)) == built and len(here.builds) == 2


def test_an_explicit_backend_builds_rather_than_tries_an_engine_for_other_gpus(tmp_path, machine):
    here = machine(*ALL, gpu=AMPERE)
    assert given(open_engines(plan_with(tmp_path, "rtx-turing"), backend="tensorrt_rtx"))[0] == "built 1 of frame"
    assert len(here.builds) == 2
