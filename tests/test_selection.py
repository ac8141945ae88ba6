"""Which backend a plan gets on which machine."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from conftest import toy_manifest

from vlf_edge import Plan, TensorSpec
from vlf_edge.errors import BackendMissing, PlanMismatch
from vlf_edge.manifest import EngineInfo
from vlf_edge.runtime import backends
from vlf_edge.runtime.backends import cuda, onnxruntime, openvino, tensorrt
from vlf_edge.runtime.backends.cuda import GpuInfo
from vlf_edge.runtime.backends.fake import FakeEngine
from vlf_edge.runtime.selection import engine_serves, open_engines

IMAGE = TensorSpec("image", "uint8", ("N", 8, 6, 3))
TOKENS = TensorSpec("tokens", "float16", ("N", 4, 6))
AMPERE = GpuInfo("RTX A2000", "8.6", 6 << 30, False)
HOPPER = GpuInfo("H100", "9.0", 80 << 30, False)
TURING = GpuInfo("RTX 2060", "7.5", 6 << 30, False)
BLACKWELL = GpuInfo("GB10", "12.1", 128 << 30, True)


def _info(stage, target, library, capabilities):
    return EngineInfo(stage, target, f"{stage}.{target}.engine", library, "1.2.3", capabilities, "", 4)


TARGETS = {
    "rtx": ("tensorrt_rtx", ("8.0", "8.6", "8.9", "12.0")),
    "rtx-turing": ("tensorrt_rtx", ("7.5",)),
    "tensorrt": ("tensorrt", ("9.0",)),
}


def _plan(tmp_path, *targets):
    engines = tuple(_info(stage, target, *TARGETS[target]) for target in targets for stage in ("frame", "clip"))
    members = {"frame.fp32.onnx": b"frame", "clip.fp32.onnx": b"clip"}
    members |= {engine.member: engine.member.encode() for engine in engines}
    return Plan.write(tmp_path / "vlf.plan", replace(toy_manifest(), engines=engines), members, {})


@pytest.fixture
def machine(monkeypatch):
    """Sets what is installed, which GPU is here and which engines it refuses; returns the list of opened engines."""
    opened = []

    class Opened(FakeEngine):
        def __init__(self, backend, given):
            super().__init__((IMAGE,), (TOKENS,))
            self.backend, self.given = backend, given
            opened.append(self)

    def set_up(*libraries, gpu=None, refuses=""):
        def probe(device=0):
            if gpu is None:
                raise BackendMissing("no usable NVIDIA GPU here")
            return gpu

        def gpu_engine(data, library, device):
            if refuses and refuses in data.decode():
                raise PlanMismatch(f"{library} refuses this engine: wrong SM")
            return Opened(library, data.decode())

        monkeypatch.setattr(backends, "installed", lambda name: name in libraries)
        monkeypatch.setattr(cuda, "probe", probe)
        monkeypatch.setattr(tensorrt, "TensorRTEngine", gpu_engine)
        monkeypatch.setattr(openvino, "OpenVINOEngine", lambda data, precision: Opened("openvino", precision))
        monkeypatch.setattr(onnxruntime, "OnnxRuntimeEngine", lambda data: Opened("onnxruntime", data.decode()))
        return opened

    return set_up


ALL = ("openvino", "onnxruntime", "tensorrt", "tensorrt_rtx")


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
def test_auto_takes_what_fits_the_machine(tmp_path, machine, caplog, targets, libraries, gpu, want):
    machine(*libraries, gpu=gpu)
    with caplog.at_level(logging.INFO, "vlf_edge"):
        engines = open_engines(_plan(tmp_path, *targets))
    assert list(engines) == ["frame", "clip"]
    assert {engine.backend for engine in engines.values()} == {want}
    fell = bool(targets) and want in ("openvino", "onnxruntime")
    assert len(caplog.records) == fell
    if fell:
        assert f"running on the CPU with {want}: " in caplog.text


def test_each_gpu_gets_its_own_engine_of_a_plan(tmp_path, machine):
    plan = _plan(tmp_path, "rtx-turing", "rtx")
    for gpu, target in ((TURING, "rtx-turing"), (AMPERE, "rtx")):
        machine(*ALL, gpu=gpu)
        assert [e.given for e in open_engines(plan).values()] == [f"frame.{target}.engine", f"clip.{target}.engine"]


def test_openvino_is_told_the_precision(tmp_path, machine):
    machine("openvino")
    assert {engine.given for engine in open_engines(_plan(tmp_path)).values()} == {"fp32"}


def test_auto_falls_to_the_cpu_as_a_whole_if_the_gpu_refuses_one_stage(tmp_path, machine, caplog):
    opened = machine(*ALL, gpu=AMPERE, refuses="clip")
    with caplog.at_level(logging.INFO, "vlf_edge"):
        engines = open_engines(_plan(tmp_path, "rtx"))
    assert [e.backend for e in engines.values()] == ["openvino", "openvino"]
    assert "wrong SM" in caplog.text
    assert (opened[0].backend, opened[0]._closed) == ("tensorrt_rtx", True)


def test_auto_without_any_library_names_the_install_line(tmp_path, machine):
    machine(gpu=AMPERE)
    with pytest.raises(BackendMissing, match=r"neither OpenVINO nor ONNX Runtime.*pip install 'vlf_edge\[cpu\]'"):
        open_engines(_plan(tmp_path, "rtx"))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "tensorrt", "tensorrt_rtx"])
def test_an_explicit_backend_is_that_one_or_an_install_line(tmp_path, machine, backend):
    plan = _plan(tmp_path, "rtx", "tensorrt")
    machine(backend, gpu=HOPPER if backend == "tensorrt" else AMPERE)
    assert {e.backend for e in open_engines(plan, backend=backend).values()} == {backend}


@pytest.mark.parametrize(("backend", "extra"), [("tensorrt", "tensorrt"), ("tensorrt_rtx", "rtx")])
def test_an_explicit_gpu_backend_needs_its_library_and_a_gpu(tmp_path, machine, backend, extra):
    plan = _plan(tmp_path, "rtx", "tensorrt")
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
            open_engines(_plan(tmp_path), backend=backend)


def test_an_explicit_backend_tries_an_unlisted_gpu_and_passes_on_the_refusal(tmp_path, machine):
    plan = _plan(tmp_path, "rtx-turing", "rtx")
    machine(*ALL, gpu=HOPPER)
    engines = open_engines(plan, backend="tensorrt_rtx")
    assert [engine.given for engine in engines.values()] == ["frame.rtx.engine", "clip.rtx.engine"]
    machine(*ALL, gpu=HOPPER, refuses="rtx")
    with pytest.raises(
        PlanMismatch,
        match=r"frame.rtx.engine built for compute capability 8.0, 8.6, 8.9, 12.0 with tensorrt_rtx 1.2.3: tensorrt_rtx"
        r" refuses this engine: wrong SM; .*vlf-edge build .*vlf.plan --target tensorrt",
    ):
        open_engines(plan, backend="tensorrt_rtx")


def test_an_unknown_backend_names_those_there_are(tmp_path):
    with pytest.raises(BackendMissing, match="no backend 'cuda'; available: auto, tensorrt, tensorrt_rtx, openvino"):
        open_engines(_plan(tmp_path), backend="cuda")


def test_the_fake_backend_needs_the_manifest_only(tmp_path):
    with open_engines(_plan(tmp_path), backend="fake")["frame"] as frame:
        tokens = frame.infer({"image": np.zeros((2, 32, 32, 3), np.uint8)})["tokens"]
    assert (tokens.shape, tokens.dtype) == ((2, 4, 6), np.float32)


@pytest.mark.parametrize(
    ("target", "capability", "serves"),
    [
        ("rtx", "8.0", True),
        ("rtx", "8.9", True),
        ("rtx", "12.1", True),  # GB10 runs what was built for 12.0
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
    assert engine_serves(_info("frame", target, *TARGETS[target]), capability) is serves
