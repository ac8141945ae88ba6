"""Targets, and real TensorRT-RTX builds of toy graphs: no GPU is needed to build."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys

import pytest
from toy_graphs import toy_clip, toy_frame

from vlf_edge.compiler import engines
from vlf_edge.compiler.engines import TARGETS, build_engines, resolve_targets
from vlf_edge.errors import BackendMissing, CompileError
from vlf_edge.runtime import backends
from vlf_edge.runtime.backends import cuda
from vlf_edge.runtime.backends.tensorrt import TensorRTEngine

rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
GPU = cuda.GpuInfo("RTX A2000", "8.6", 6 << 30, False)


@pytest.fixture
def machine(monkeypatch):
    def set_up(*libraries, gpu=None):
        def probe(device=0):
            if gpu is None:
                raise BackendMissing("no usable NVIDIA GPU here")
            return gpu

        monkeypatch.setattr(backends, "installed", lambda name: name in libraries)
        monkeypatch.setattr(cuda, "probe", probe)

    return set_up


@pytest.mark.parametrize(
    ("libraries", "gpu", "want"),
    [
        ((), None, []),
        ((), GPU, []),
        (("tensorrt_rtx",), None, ["rtx"]),
        (("tensorrt",), None, []),
        (("tensorrt",), GPU, ["tensorrt"]),
        (("tensorrt", "tensorrt_rtx"), GPU, ["rtx", "tensorrt"]),
    ],
)
def test_auto_is_what_this_machine_can_build(machine, libraries, gpu, want):
    machine(*libraries, gpu=gpu)
    assert [target.name for target in resolve_targets("auto")] == want
    assert resolve_targets("cpu") == []


def test_targets_by_name(machine):
    machine("tensorrt", "tensorrt_rtx", gpu=GPU)
    assert resolve_targets("rtx, rtx-turing,rtx") == [TARGETS["rtx"], TARGETS["rtx-turing"]]
    assert [t.compute_capabilities for t in resolve_targets("rtx:sm86,rtx:sm120")] == [("8.6",), ("12.0",)]
    with pytest.raises(CompileError, match="no target 'orin'; available: auto, cpu, rtx, rtx-turing, tensorrt, "):
        resolve_targets("orin")


def test_a_target_without_its_library_or_gpu_says_what_is_missing(machine):
    machine()
    with pytest.raises(BackendMissing, match=r"tensorrt_rtx is not installed; .*pip install 'vlf_edge\[rtx\]'"):
        resolve_targets("rtx")
    machine("tensorrt")
    with pytest.raises(BackendMissing, match="no usable NVIDIA GPU here"):
        resolve_targets("tensorrt")


@rtx
@pytest.mark.parametrize("target", ["rtx", "rtx-turing", "rtx:sm80", "rtx:sm86", "rtx:sm89", "rtx:sm120"])
def test_rtx_builds_for_every_target(target):
    ((info, data),) = build_engines({"frame": toy_frame("float16")}, resolve_targets(target), max_batch=4)
    (wanted,) = resolve_targets(target)
    assert info.compute_capabilities == wanted.compute_capabilities
    assert (info.stage, info.target, info.library) == ("frame", target, "tensorrt_rtx")
    assert (info.max_batch, info.device) == (4, "")
    assert info.member == f"frame.{target.replace(':', '-')}.engine"
    assert data[:4] == b"vtrt" and len(data) > 10_000


@rtx
def test_every_stage_is_built_and_the_same_graph_gives_the_same_bytes():
    seen = []
    graphs = {"frame": toy_frame("float16"), "clip": toy_clip("float16")}
    first = build_engines(graphs, resolve_targets("rtx:sm86"), progress=lambda *step: seen.append(step))
    assert [info.member for info, _ in first] == ["frame.rtx-sm86.engine", "clip.rtx-sm86.engine"]
    assert seen == [(0, 2, "frame.rtx-sm86.engine"), (1, 2, "clip.rtx-sm86.engine"), (2, 2, "")]
    again = build_engines(graphs, resolve_targets("rtx:sm86"))
    assert [hashlib.sha256(data).digest() for _, data in again] == [hashlib.sha256(data).digest() for _, data in first]


@rtx
def test_float32_fails_on_turing_with_the_builders_words_and_the_remedy():
    with pytest.raises(
        CompileError,
        match="stage 'frame' for target 'rtx-turing'.*FP32 GEMM is not supported.*needs --precision fp16 or int8",
    ):
        build_engines({"frame": toy_frame("float32")}, resolve_targets("rtx-turing"))
    assert build_engines({"frame": toy_frame("float32")}, resolve_targets("rtx:sm86"))


@rtx
def test_garbage_fails_with_the_parsers_words():
    with pytest.raises(CompileError, match="cannot read this ONNX graph: .*Failed to parse the ONNX model"):
        build_engines({"frame": b"garbage" * 9}, resolve_targets("rtx:sm86"))


@rtx
def test_an_unknown_compute_capability_names_those_there_are():
    with pytest.raises(CompileError, match="builds for SM75, SM80, .*, got SM87"):
        build_engines({"frame": toy_frame("float16")}, resolve_targets("rtx:sm87"))


@pytest.mark.parametrize(
    ("child", "message"),
    [
        ("import os; print('Last', flush=True); os.kill(os.getpid(), 9)", "killed by SIGKILL, .*memory.*said: Last"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV$"),
        ("raise SystemExit('no module')", "exit status 1; it last said: no module"),
        ("", "exit status 0"),
    ],
)
def test_a_child_that_dies_is_a_compile_error_that_says_how(monkeypatch, child, message):
    monkeypatch.setattr(engines, "_CHILD", child)
    with pytest.raises(CompileError, match=f"stage 'clip' for target 'rtx' ended its process: {message}"):
        build_engines({"clip": b""}, [TARGETS["rtx"]])


@rtx
def test_opening_an_rtx_engine_without_a_gpu_is_one_sentence():
    if cuda.gpu() is not None:
        pytest.skip("there is a GPU here")
    ((_, data),) = build_engines({"frame": toy_frame("float16")}, resolve_targets("rtx:sm86"))
    with pytest.raises(BackendMissing, match="no usable NVIDIA GPU here .*; install or update the ") as error:
        TensorRTEngine(data, "tensorrt_rtx")
    assert "\n" not in str(error.value)


def test_neither_torch_nor_onnx_is_needed_to_build():
    heavy = "{'torch', 'onnx', 'onnxruntime', 'tensorrt_rtx'}"
    code = f"import sys, vlf_edge.compiler.engines; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
