"""Which backend a plan gets on which machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from machines import (
    ALL,
    AMPERE,
    BLACKWELL,
    HOPPER,
    ORIN,
    TARGETS,
    TURING,
    VOLTA,
    engine_info,
    given,
    plan_with,
)

from vlf_edge import Plan
from vlf_edge.backends import cuda
from vlf_edge.backends.selection import engine_serves, open_engines
from vlf_edge.backends.table import GPU_BACKENDS
from vlf_edge.cli import main
from vlf_edge.compiler import Recipe, build
from vlf_edge.errors import BackendMissing, CompileError, PlanMismatch, VlfError


@pytest.mark.parametrize(
    ("targets", "libraries", "gpu", "want"),
    [
        (("rtx",), ALL, AMPERE, "tensorrt_rtx"),
        (("rtx",), ALL, BLACKWELL, "tensorrt_rtx"),
        (("rtx",), ALL, TURING, "openvino"),
        (("rtx",), ALL, HOPPER, "openvino"),
        (("rtx",), ALL, None, "openvino"),
        (("rtx",), ("openvino", "onnxruntime"), AMPERE, "openvino"),
        (("rtx",), ("onnxruntime",), AMPERE, "onnxruntime"),
        (("rtx-turing", "rtx"), ALL, TURING, "tensorrt_rtx"),
        (("rtx-turing",), ALL, AMPERE, "openvino"),
        (("tensorrt", "rtx"), ALL, HOPPER, "tensorrt"),
        (("tensorrt", "rtx"), ALL, AMPERE, "tensorrt_rtx"),
        (("tensorrt",), ("tensorrt_rtx", "onnxruntime"), HOPPER, "onnxruntime"),
        ((), ALL, AMPERE, "openvino"),
        ((), ("onnxruntime", "tensorrt"), AMPERE, "onnxruntime"),
    ],
)
def test_never_takes_what_fits_the_machine_and_builds_nothing(tmp_path, machine, said, targets, libraries, gpu, want):
    here = machine(*libraries, gpu=gpu)
    engines = open_engines(plan_with(tmp_path, *targets), rebuild="never")
    assert list(engines) == ["frame", "clip"]
    assert {engine.backend for engine in engines.values()} == {want}
    assert here.builds == []
    sentences = said()
    if want in ("openvino", "onnxruntime") and (targets or set(libraries) & set(GPU_BACKENDS)):
        (sentence,) = sentences
        assert sentence.startswith(f"running on the CPU with {want}: ")
    else:
        assert sentences == []


@pytest.mark.parametrize(
    ("libraries", "gpu", "asked", "words"),
    [
        (("openvino",), AMPERE, {"rebuild": "always"}, "neither TensorRT nor TensorRT-RTX is here"),
        (ALL, None, {"rebuild": "always"}, "no usable NVIDIA GPU here"),
        (ALL, AMPERE, {"device": 3}, "there is no GPU 3"),
        (("openvino",), AMPERE, {"device": 3}, "GPU 3 was asked for, but neither TensorRT nor TensorRT-RTX is here"),
        (ALL, None, {}, "no usable NVIDIA GPU here"),  # who installs a library for GPUs asks for one
        (("openvino", "tensorrt"), None, {}, "no usable NVIDIA GPU here"),
        (("openvino", "tensorrt_rtx"), None, {"rebuild": "never"}, "no usable NVIDIA GPU here"),
        (("openvino", "tensorrt"), AMPERE, {"rebuild": "never"}, "has no engine for a GPU, and none is to be built"),
        (("openvino", "onnxruntime"), None, {}, None),
    ],
)
def test_a_gpu_that_was_asked_for_is_not_silently_left_out(tmp_path, machine, said, libraries, gpu, asked, words):
    machine(*libraries, gpu=gpu)
    engines = open_engines(plan_with(tmp_path), **asked)
    assert {engine.backend for engine in engines.values()} == {"openvino"}
    assert [words in sentence for sentence in said()] == [True] if words else said() == []


def test_each_gpu_gets_its_own_engine_of_aplan_with(tmp_path, machine):
    plan = plan_with(tmp_path, "rtx-turing", "rtx")
    for gpu, target in ((TURING, "rtx-turing"), (AMPERE, "rtx")):
        machine(*ALL, gpu=gpu)
        assert [e.given for e in open_engines(plan).values()] == [f"frame.{target}.engine", f"clip.{target}.engine"]


def test_openvino_is_told_the_precision(tmp_path, machine):
    machine("openvino")
    assert {engine.given for engine in open_engines(plan_with(tmp_path)).values()} == {"fp32"}


def test_auto_falls_to_the_cpu_as_a_whole_if_the_gpu_refuses_one_stage(tmp_path, machine, said):
    here = machine(*ALL, gpu=AMPERE, refuses=b"clip")
    engines = open_engines(plan_with(tmp_path, "rtx"), rebuild="never")
    assert [e.backend for e in engines.values()] == ["openvino", "openvino"]
    assert "wrong SM" in said()[0]
    assert (here.opened[0].backend, here.opened[0]._closed) == ("tensorrt_rtx", True)


def test_auto_without_any_library_names_the_install_line(tmp_path, machine):
    machine(gpu=AMPERE)
    with pytest.raises(BackendMissing, match=r"none of openvino, onnxruntime is here.*pip install 'vlf_edge\[cpu\]'"):
        open_engines(plan_with(tmp_path, "rtx"), rebuild="never")


def test_what_keeps_a_gpu_library_from_its_gpu_is_part_of_the_error(tmp_path, machine, said, monkeypatch):
    """A Jetson or a PC with an old driver, where cuda-bindings are absent or too new, and nothing for the CPU."""
    machine("tensorrt")
    lacking = BackendMissing(
        "cuda-bindings cannot be imported (No module named 'cuda')", remedy="install it with: pip x"
    )
    monkeypatch.setattr(cuda, "probe", lambda device=0: (_ for _ in ()).throw(lacking))
    words = r"is here \(cuda-bindings cannot .*'cuda'\)\); install one with: .*\[cpu\].*; for the GPU: .*pip x$"
    with pytest.raises(BackendMissing, match=words):
        open_engines(plan_with(tmp_path))
    machine("tensorrt", "openvino")
    monkeypatch.setattr(cuda, "probe", lambda device=0: (_ for _ in ()).throw(lacking))
    open_engines(plan_with(tmp_path))
    assert said() == ["running on the CPU with openvino: cuda-bindings cannot be imported (No module named 'cuda')"]


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "tensorrt", "tensorrt_rtx"])
def test_an_explicit_backend_is_that_one_or_an_install_line(tmp_path, machine, backend):
    plan = plan_with(tmp_path, "rtx", "tensorrt")
    machine(backend, gpu=HOPPER if backend == "tensorrt" else AMPERE)
    assert {e.backend for e in open_engines(plan, backend=backend).values()} == {backend}


@pytest.mark.parametrize(("backend", "extra"), [("tensorrt", "tensorrt"), ("tensorrt_rtx", "rtx")])
def test_an_explicit_gpu_backend_needs_its_library_and_a_gpu(tmp_path, machine, backend, extra):
    plan = plan_with(tmp_path, "rtx", "tensorrt")
    machine("openvino", gpu=AMPERE)
    with pytest.raises(BackendMissing, match=rf"{backend} is not installed; .*pip install 'vlf_edge\[{extra}\]'"):
        open_engines(plan, backend=backend)
    machine(*ALL, gpu=None)
    with pytest.raises(BackendMissing, match="no usable NVIDIA GPU here"):
        open_engines(plan, backend=backend)


def test_a_plan_without_engines_for_the_backend_says_which_command_adds_them(tmp_path, machine):
    for backend, gpu, target in (
        ("tensorrt_rtx", AMPERE, "rtx"),
        ("tensorrt_rtx", TURING, "rtx-turing"),
        ("tensorrt_rtx", HOPPER, "tensorrt"),
        ("tensorrt", AMPERE, "tensorrt"),
    ):
        machine(*ALL, gpu=gpu)
        words = rf"no {backend} engine of stage 'frame'.*{gpu.name}.*--target {target}$"
        with pytest.raises(PlanMismatch, match=words):
            open_engines(plan_with(tmp_path), backend=backend, rebuild="never")


def test_an_explicit_backend_tries_an_unlisted_gpu_and_passes_on_the_refusal(tmp_path, machine):
    plan = plan_with(tmp_path, "rtx-turing", "rtx")
    here = machine(*ALL, gpu=HOPPER)
    engines = open_engines(plan, backend="tensorrt_rtx", rebuild="never")
    assert given(engines) == ["frame.rtx.engine", "clip.rtx.engine"]
    here = machine(*ALL, gpu=VOLTA)  # TensorRT-RTX does not build for it, so that is all that is left
    engines = open_engines(plan, backend="tensorrt_rtx")
    assert given(engines) == ["frame.rtx.engine", "clip.rtx.engine"]
    assert here.builds == []
    machine(*ALL, gpu=VOLTA, refuses=b"rtx")
    refused = (
        r"frame.rtx.engine built for compute capability 8.0, 8.6, 8.9, 12.0, 12.1\+ with tensorrt_rtx 1.2.3: "
        "tensorrt_rtx refuses this engine: wrong SM; "
    )
    with pytest.raises(PlanMismatch, match=refused + "add an engine .*vlf-edge build .*vlf.plan --target tensorrt"):
        open_engines(plan, backend="tensorrt_rtx", rebuild="never")
    with pytest.raises(CompileError, match=refused + "tensorrt_rtx 1.2.3 does not build for V100 .*TensorRT may: pip"):
        open_engines(plan, backend="tensorrt_rtx")


def test_an_unknown_backend_names_those_there_are(tmp_path):
    with pytest.raises(BackendMissing, match="no backend 'cuda'; available: auto, tensorrt, tensorrt_rtx, openvino"):
        open_engines(plan_with(tmp_path), backend="cuda")


def test_the_fake_backend_needs_no_library(toy_plan):
    with open_engines(toy_plan, backend="fake")["frame"] as frame:
        tokens = frame.infer({"image": np.zeros((2, 32, 32, 3), np.uint8)})["tokens"]
    assert (tokens.shape, tokens.dtype) == ((2, 4, 6), np.float32)


@pytest.mark.parametrize(
    ("target", "capability", "serves"),
    [
        ("rtx", "8.0", True),
        ("rtx", "8.9", True),
        ("rtx", "12.1", True),
        ("rtx", "13.0", True),  # and later
        ("rtx:sm120", "12.1", False),
        ("rtx", "7.5", False),
        ("rtx", "8.7", False),  # Orin: TensorRT only
        ("rtx", "9.0", False),
        ("rtx-turing", "7.5", True),
        ("rtx-turing", "8.6", False),
        ("tensorrt", "9.0", True),
        ("tensorrt", "12.1", False),
    ],
)
def test_engine_serves(target, capability, serves):
    single = {"rtx:sm120": ("tensorrt_rtx", ("12.0",))}
    assert engine_serves(engine_info("frame", target, *{**TARGETS, **single}[target]), capability) is serves


@pytest.mark.parametrize(
    ("verb", "user"),
    [
        ("run {plan} test://motion", "vlf_edge.runtime.runtime"),
        ("bench {plan}", "vlf_edge.runtime.runtime"),
        ("eval {plan} motion", "vlf_edge.evaluation.classifier"),
    ],
)
def test_the_commands_pass_their_options_on(tmp_path, monkeypatch, verb, user):
    passed = []

    def opened(plan, **options):
        passed.append(options)
        raise VlfError("enough")

    monkeypatch.setattr(f"{user}.open_engines", opened)
    command = verb.format(plan=plan_with(tmp_path).path).split()
    options = ["--device", "1", "--rebuild", "never", "--no-cuda-graph", "--threads", "2"]
    assert main(command) == main([*command, *options]) == 1
    assert [options.pop("accept") is not None for options in passed] == [True, True]
    assert passed == [
        {"backend": "auto", "device": 0, "rebuild": "auto", "cuda_graph": True, "threads": None},
        {"backend": "auto", "device": 1, "rebuild": "never", "cuda_graph": False, "threads": 2},
    ]


def test_one_plan_serves_a_fleet(tmp_path, machine, said):
    path, agx = plan_with(tmp_path).path, replace(ORIN, multiprocessors=16)
    for gpu in (HOPPER, ORIN, agx):
        machine(*ALL, gpu=gpu)
        build(Recipe(target="tensorrt", max_batch=16, opt_batch=4), base=path)
    engines = Plan.open(path).manifest.engines
    assert [(e.target, e.device, e.max_batch, e.opt_batch) for e in engines if e.stage == "frame"] == [
        ("tensorrt:h100", "H100", 16, 4),
        ("tensorrt:orin-with-8-sms", "Orin with 8 SMs", 16, 4),
        ("tensorrt:orin-with-16-sms", "Orin with 16 SMs", 16, 4),
    ]
    said()
    for gpu, builds in ((HOPPER, (1, 2)), (ORIN, (3, 4)), (agx, (5, 6))):
        here = machine(*ALL, gpu=gpu)
        frame, clip = builds
        assert given(open_engines(Plan.open(path))) == [f"built {frame} of frame", f"built {clip} of clip"]
    assert said() == [] and len(here.builds) == 6
    # Another version on one of them replaces that one's engines alone.
    machine(*ALL, gpu=ORIN, version="1.2.4")
    build(Recipe(target="tensorrt"), base=path)
    versions = [(e.device, e.version) for e in Plan.open(path).manifest.engines if e.stage == "clip"]
    assert sorted(versions) == [("H100", "1.2.3"), ("Orin with 16 SMs", "1.2.3"), ("Orin with 8 SMs", "1.2.4")]


def test_a_rebuild_has_the_batches_of_the_plans_engines(tmp_path, machine):
    path = plan_with(tmp_path).path
    machine(*ALL, gpu=HOPPER)
    build(Recipe(target="tensorrt", max_batch=64, opt_batch=32), base=path)
    here = machine(*ALL, gpu=AMPERE)
    here.builds.clear()
    open_engines(Plan.open(path))
    assert [(options["max_batch"], options["opt_batch"]) for _, options in here.builds] == [(64, 32)] * 2
