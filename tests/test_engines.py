"""Targets, and real TensorRT-RTX builds of toy graphs: no GPU is needed to build."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from conftest import manifest_of
from toy_graphs import toy_clip, toy_frame

from vlf_edge import Plan, backends
from vlf_edge.backends import build_process, cuda, tensorrt_build
from vlf_edge.backends.tensorrt import TensorRTEngine
from vlf_edge.compiler.engines import TARGETS, build_engines, resolve_targets
from vlf_edge.errors import BackendMissing, CompileError

rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
GPU = cuda.GpuInfo("RTX A2000", "8.6", 6 << 30, False, 26)


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
        (("tensorrt",), GPU, ["tensorrt:rtx-a2000"]),
        (("tensorrt", "tensorrt_rtx"), GPU, ["rtx", "tensorrt:rtx-a2000"]),
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
@pytest.mark.parametrize(
    ("target", "mask"),
    [
        ("rtx", 0x7E),  # with 8.0, 8.6, 8.9 and 12.0 set one by one: 0x1E, which leaves out 12.1 and what comes later
        ("rtx-turing", 0x01),
        ("rtx:sm80", 0x02),
        ("rtx:sm86", 0x04),
        ("rtx:sm89", 0x08),
        ("rtx:sm120", 0x10),
        ("rtx:sm121", 0x20),
    ],
)
def test_rtx_builds_for_every_target(target, mask):
    ((info, data),) = build_engines({"frame": toy_frame("float16")}, resolve_targets(target), max_batch=4)
    (wanted,) = resolve_targets(target)
    assert info.compute_capabilities == (wanted.compute_capabilities or ("8.0", "8.6", "8.9", "12.0", "12.1+"))
    assert data[32] == mask, "the GPUs that the engine itself names in its header"
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
    monkeypatch.setattr(build_process, "_CHILD", child)
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


# In every process that has this on its path, the libraries of a development machine are as good as not installed.
SITECUSTOMIZE = """
import sys

ABSENT = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "onnxscript", "openvino", "safetensors", "modelopt")

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


@rtx
def test_an_engine_is_added_to_a_plan_where_there_is_neither_torch_nor_onnx(tmp_path):
    graphs = {"frame": toy_frame("float16"), "clip": toy_clip("float16")}
    members = {f"{stage}.fp32.onnx": graph for stage, graph in graphs.items()}
    path = Plan.write(tmp_path / "vlf.plan", manifest_of(graphs), members, {"note": "toy"}).path
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    search = os.pathsep.join([str(tmp_path / "bare"), str(Path(build_process.__file__).parents[3])])
    environment = {**os.environ, "PYTHONPATH": search}

    def run(*command):
        return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, cwd=tmp_path)

    tried = "\n".join(
        f"try:\n    import {name}\nexcept ModuleNotFoundError as e:\n    print(e)"
        for name in ("torch", "onnx", "onnxruntime", "openvino", "timm")
    )
    assert run("-c", tried).stdout.count("No module named") == 5
    done = run("-m", "vlf_edge", "build", str(path), "--target", "rtx")
    assert done.returncode == 0, done.stderr
    plan = Plan.open(path)
    assert [(info.stage, info.target, info.library) for info in plan.manifest.engines] == [
        (stage, "rtx", "tensorrt_rtx") for stage in ("frame", "clip")
    ]
    assert all(plan.read(info.member)[:4] == b"vtrt" for info in plan.manifest.engines)
    assert {name: plan.read(name) for name in members} == members


def test_the_child_ends_with_its_parent(tmp_path):
    """A start that was killed must not leave a build behind: a small board has no memory for two."""
    slow = (
        "import os, time; from pathlib import Path; from vlf_edge.backends import build_process as b;"
        f"began = Path({str(tmp_path)!r}, f'began.{{os.getpid()}}');"
        "b.build_engine = lambda *a, **k: (began.touch(), time.sleep(600));"
        "b.build_in_folder('.')"
    )
    start = (
        f"from vlf_edge.backends import build_process as b; b._CHILD = {slow!r};"
        "b.build_in_child(b'', 'a toy', library='tensorrt', max_batch=1)"
    )
    parent = subprocess.Popen([sys.executable, "-c", start], env={**os.environ, "TMPDIR": str(tmp_path)})
    deadline_s = time.monotonic() + 120
    while not (began := list(tmp_path.glob("began.*"))):
        assert parent.poll() is None and time.monotonic() < deadline_s, "no build began"
        time.sleep(0.05)
    child = int(began[0].suffix[1:])
    assert _runs(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while _runs(child):
        assert time.monotonic() < deadline_s, "the build goes on"
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class _Timings:
    """What TensorRT knows about its kernels: here a list of the versions whose builds added to it."""

    def __init__(self, data: bytes):
        self.known = json.loads(data or b"[]")

    def serialize(self):
        return memoryview(json.dumps(self.known).encode())


class _Config:
    """A strict builder config: a timing cache is only there once one was set, and one of another version is refused."""

    def __init__(self, version):
        self._version, self._timings = version, None

    def create_timing_cache(self, data):
        return _Timings(data)

    def set_timing_cache(self, timings, ignore_mismatch):
        assert ignore_mismatch is False
        if any(version != self._version for version in timings.known):
            return False
        self._timings = timings
        return True

    def get_timing_cache(self):
        return self._timings


@pytest.fixture
def timed_build(monkeypatch):
    """Builds with timings in a folder; returns how many builds those knew of before, None if there were no timings."""
    stream = SimpleNamespace(current=nullcontext, close=lambda: None)
    monkeypatch.setattr(cuda, "Stream", lambda device: stream)

    def build(folder, version="10.3.0", gpu=GPU):
        trt, known = ModuleType("tensorrt"), []

        class Builder:
            def __init__(self, logger):
                pass

            def create_network(self, flags):
                tensor = SimpleNamespace(name="x", shape=(1, 2))
                return SimpleNamespace(num_inputs=1, get_input=lambda index: tensor)

            def create_builder_config(self):
                return _Config(version)

            def build_serialized_network(self, network, config):
                timings = config.get_timing_cache()
                known.append(None if timings is None else len(timings.known))
                if timings is not None:
                    timings.known.append(version)
                return memoryview(b"engine")

        class Logger:
            INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

        trt.__version__, trt.Builder, trt.ILogger = version, Builder, Logger
        trt.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        trt.OnnxParser = lambda network, log: SimpleNamespace(parse=lambda data: True)
        monkeypatch.setattr(tensorrt_build, "load", lambda library: trt)
        monkeypatch.setattr(cuda, "probe", lambda device: gpu)
        built = tensorrt_build.build_engine(b"onnx", "tensorrt", max_batch=1, timings=folder)
        assert (built.data, built.version, built.device) == (b"engine", version, gpu.name)
        return known[0]

    return build


def test_the_next_build_knows_the_timings_of_those_before(timed_build, tmp_path):
    folder = tmp_path / "timings"
    assert [timed_build(folder) for _ in range(3)] == [0, 1, 2]
    (kept,) = folder.iterdir()
    assert kept.name == "10.3.0-sm8.6-RTX-A2000.timing"
    assert timed_build(None) is None and timed_build(folder) == 3


def test_timings_hold_for_one_version_on_one_model_of_gpu(timed_build, tmp_path):
    assert timed_build(tmp_path) == 0
    assert timed_build(tmp_path, version="10.13.0") == 0
    assert timed_build(tmp_path, gpu=replace(GPU, name="RTX A4000")) == 0
    assert timed_build(tmp_path) == 1


def test_timings_that_are_refused_or_damaged_or_cannot_be_kept_do_not_stop_a_build(timed_build, tmp_path, caplog):
    folder, other, file = tmp_path / "timings", tmp_path / "other", tmp_path / "file"
    timed_build(folder)
    (kept,) = folder.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    assert timed_build(folder) == 0 and timed_build(folder) == 1
    assert "is damaged and is made anew" in caplog.text
    timed_build(other, version="9.9.9")
    (foreign,) = other.iterdir()
    kept.write_bytes(foreign.read_bytes())
    assert timed_build(folder) == 0 and timed_build(folder) == 1
    file.touch()
    assert timed_build(file) == 0
    assert "cannot keep" in caplog.text
