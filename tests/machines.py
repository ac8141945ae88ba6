"""Machines to select engines on: what is installed there, which GPU they have and what can be built."""

from __future__ import annotations

import enum
import logging
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

from conftest import toy_manifest

from vlf_edge import Plan, backends
from vlf_edge.backends import build_process, cuda, onnxruntime, openvino, tensorrt
from vlf_edge.backends.cuda import GpuInfo
from vlf_edge.backends.fake import FakeEngine
from vlf_edge.backends.tensorrt_build import BuiltEngine
from vlf_edge.compiler import engines as compiler_engines
from vlf_edge.errors import BackendMissing, CompileError, PlanMismatch, VlfError
from vlf_edge.manifest import EngineInfo

ALL = ("openvino", "onnxruntime", "tensorrt", "tensorrt_rtx")
AMPERE = GpuInfo("RTX A2000", "8.6", 6 << 30, False, 26)
HOPPER = GpuInfo("H100", "9.0", 80 << 30, False, 132)
ORIN = GpuInfo("Orin", "8.7", 8 << 30, True, 8)
TURING = GpuInfo("RTX 2060", "7.5", 6 << 30, False, 30)
VOLTA = GpuInfo("V100", "7.0", 16 << 30, False, 80)
LATER = GpuInfo("RTX 7090", "13.0", 32 << 30, False, 170)  # of the years to come
BLACKWELL = GpuInfo("GB10", "12.1", 128 << 30, True, 48)


def engine_info(stage, target, library, capabilities, device=""):
    return EngineInfo(stage, target, f"{stage}.{target}.engine", library, "1.2.3", capabilities, device, 4)


TARGETS = {
    "rtx": ("tensorrt_rtx", ("8.0", "8.6", "8.9", "12.0", "12.1+")),
    "rtx-turing": ("tensorrt_rtx", ("7.5",)),
    "tensorrt": ("tensorrt", ("9.0",)),
}


def plan_with(tmp_path, *targets, device="", frame=b"frame", clip=b"clip"):
    engines = tuple(
        engine_info(stage, target, *TARGETS[target], device) for target in targets for stage in ("frame", "clip")
    )
    members = {"frame.fp32.onnx": frame, "clip.fp32.onnx": clip}
    members |= {engine.member: engine.member.encode() for engine in engines}
    return Plan.write(tmp_path / "vlf.plan", replace(toy_manifest(), engines=engines), members, {})


def machine_of(monkeypatch, tmp_path):
    """A function that sets what is installed, which GPU is here, which engines it refuses and what cannot be built.

    It returns the machine, with its lists of opened engines and of builds: (graph, options) each.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    really_build = build_process.build_in_child
    here = SimpleNamespace(opened=[], builds=[], cache=tmp_path / "cache" / "vlf_edge" / "engines")

    class Opened(FakeEngine):
        def __init__(self, backend, data, given, cuda_graph=None):
            stage = "clip" if b"clip" in data or b"logits" in data else "frame"
            graph = toy_manifest().graph(stage, "portable")
            super().__init__(graph.inputs, graph.outputs)
            self.backend, self.given, self.cuda_graph = backend, given, cuda_graph
            here.opened.append(self)

    def set_up(*libraries, gpu=None, refuses=None, unbuildable=None, version="1.2.3", full=False, has_sm121=True):
        def probe(device=0):
            if gpu is None:
                raise BackendMissing("no usable NVIDIA GPU here")
            if device != 0:
                raise BackendMissing(f"there is no GPU {device}: found 1, numbered from 0")
            return gpu

        def load(library):
            backends.require(library)
            known = {f"SM{sm}": sm for sm in (75, 80, 86, 89, 120, *([121] if has_sm121 else []))}
            capabilities = enum.IntEnum("ComputeCapability", {"NONE": 0, "CURRENT": 1, **known})
            return SimpleNamespace(__version__=version, ComputeCapability=capabilities)

        def gpu_engine(data, library, device, *, cuda_graph):
            if refuses and refuses in data:
                raise PlanMismatch(f"{library} refuses this engine: wrong SM")
            if full:
                raise VlfError("CUDA could not allocate 9 bytes on the GPU")
            return Opened(library, data, data.decode(errors="replace"), cuda_graph)

        def build(onnx_bytes, what, *, device, **options):
            here.builds.append((onnx_bytes, options))
            if unbuildable:
                raise CompileError(f"cannot build {what}: {unbuildable}")
            if onnx_bytes[:1] == b"\x08":  # real ONNX
                return really_build(onnx_bytes, what, device=device, **options)
            data = b"built %d of %s" % (len(here.builds), onnx_bytes)
            return BuiltEngine(data, version, (gpu.compute_capability,), gpu.model, options["max_batch"])

        # The graphs here are words and no ONNX.
        monkeypatch.setattr(Plan, "graph", lambda plan, *which: plan.read(plan.manifest.graph(*which).member))
        monkeypatch.setattr(backends, "installed", lambda name: name in libraries)
        monkeypatch.setattr(backends, "load", load)
        monkeypatch.setattr(build_process, "build_in_child", build)
        monkeypatch.setattr(compiler_engines, "build_in_child", partial(build, device=0))
        monkeypatch.setattr(cuda, "probe", probe)
        monkeypatch.setattr(tensorrt, "TensorRTEngine", gpu_engine)
        monkeypatch.setattr(
            openvino, "OpenVINOEngine", lambda data, precision, threads: Opened("openvino", data, precision)
        )
        monkeypatch.setattr(
            onnxruntime,
            "OnnxRuntimeEngine",
            lambda data, **_: Opened("onnxruntime", data, data.decode()),
        )
        return here

    return set_up


def given(engines) -> list[str]:
    """The bytes, graphs or precisions that engines were opened with."""
    return [engine.given for engine in engines.values()]


def sentences_of(caplog):
    """A function: what the package logged since its last call, a sentence each, from INFO on."""
    caplog.set_level(logging.INFO, "vlf_edge")

    def sentences():
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    return sentences
