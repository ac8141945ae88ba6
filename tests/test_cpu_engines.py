"""What OpenVINO and ONNX Runtime do besides computing: forks, errors while they run, and messages that are no text."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import toy_manifest
from onnx import TensorProto, helper
from test_golden import GOLDEN
from toy_graphs import toy_clip, toy_frame

from vlf_edge import Plan, backends, open_source
from vlf_edge.backends.cpu import int8_saturates, said
from vlf_edge.backends.onnxruntime import OnnxRuntimeEngine
from vlf_edge.backends.openvino import OpenVINOEngine
from vlf_edge.backends.selection import open_engines
from vlf_edge.errors import PlanMismatch, VlfError
from vlf_edge.runtime.executor import MAX_BATCH
from vlf_edge.video.preprocess import Preprocessor

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")

ENGINES = [OpenVINOEngine, OnnxRuntimeEngine]
IMAGE = {"image": np.zeros((1, 16, 16, 3), np.uint8)}
FORK_LIMIT_S = 120  # a child that hangs is ended by a signal; none is near this when it works


def in_forked_child(run) -> str:
    """What ``run`` returned there, or which VlfError it raised."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(FORK_LIMIT_S)
        try:
            try:
                answer = f"{run()}"
            except VlfError as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(writer, answer.encode())
            os._exit(0)
        finally:
            os._exit(1)  # no second pytest
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "the child hung or failed"
    return text


@pytest.mark.parametrize("engine_class", ENGINES)
def test_an_engine_refuses_to_run_in_a_forked_child(engine_class):
    with engine_class(toy_frame()) as engine:

        def child():
            with engine:  # and closing it there waits for nobody
                engine.infer(IMAGE)

        told = in_forked_child(child)
        assert told.startswith("VlfError: ") and "before the process was forked" in told and '"spawn"' in told
        assert engine.infer(IMAGE)["tokens"].shape == (1, 16, 4), "the parent's is as it was"


def test_openvino_refuses_to_open_in_a_forked_child():
    OpenVINOEngine(toy_frame()).close()  # a closed engine has left threads behind, too
    told = in_forked_child(lambda: OpenVINOEngine(toy_frame()))
    assert told.startswith("BackendMissing: openvino was used before this process was forked")


def test_a_plan_opens_in_a_forked_child_on_onnxruntime():
    plan = Plan.open(GOLDEN / "format1-fp32.plan")
    for backend in ("openvino", "onnxruntime"):
        for engine in open_engines(plan, backend=backend).values():
            engine.close()

    def child():
        engines = open_engines(plan)
        engines["frame"].infer({"image": np.zeros((1, 32, 32, 3), np.uint8)})
        return engines["frame"].backend

    assert in_forked_child(child) == "onnxruntime"


def test_a_child_forked_before_anything_was_opened_takes_openvino():
    program = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from toy_graphs import toy_clip, toy_frame
from vlf_edge.backends.openvino import OpenVINOEngine
child = os.fork()
if child == 0:
    signal.alarm(120)
engine = OpenVINOEngine(toy_frame())
if child:
    sys.exit(os.waitpid(child, 0)[1])
"""
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    assert subprocess.run(command, timeout=240).returncode == 0


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_forked_child_ends_although_it_inherited_engines(backend):
    """Not only by os._exit: also through the libraries' own clearing up, which would wait for threads."""
    program = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_cpu_engines import IMAGE, OnnxRuntimeEngine, OpenVINOEngine, toy_frame
engine = {"openvino": OpenVINOEngine, "onnxruntime": OnnxRuntimeEngine}[sys.argv[2]](toy_frame())
engine.infer(IMAGE)
child = os.fork()
if child == 0:
    signal.alarm(120)
    engine.close()
    sys.exit(0)
sys.exit(os.waitpid(child, 0)[1])
"""
    command = [sys.executable, "-c", program, str(Path(__file__).parent), backend]
    assert subprocess.run(command, timeout=240).returncode == 0


def seven_rows() -> bytes:
    """(N, 16, 16, 3) in seven rows, which only a batch of 7, 14, .. can be: nothing knows before it runs."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 16, 16, 3])
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, [7, "M"])
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["numbers", "seven"], ["rows"]),
    ]
    seven = helper.make_tensor("seven", TensorProto.INT64, [2], [7, -1])
    graph = helper.make_graph(nodes, "rows", [image], [rows], [seven])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


class Refusing:
    """A request of OpenVINO's that fails as its own do."""

    def infer(self, *_, **__):
        raise RuntimeError("Exception from src/cpp/infer_request.cpp:223:\nShape mismatch: 1 is not 7\n")


@pytest.mark.parametrize("engine_class", ENGINES)
def test_what_fails_inside_the_library_is_one_sentence(engine_class, capfd, monkeypatch):
    with engine_class(seven_rows()) as engine:
        with monkeypatch.context() as patch:
            if engine_class is OpenVINOEngine:  # which does not check this on every CPU, and reads beyond the image
                patch.setattr(engine, "_request", Refusing())
            with pytest.raises(VlfError, match=f"{engine.backend} failed while it ran .*image uint8.*: .") as caught:
                engine.infer(IMAGE)
        assert engine.infer({"image": IMAGE["image"].repeat(7, axis=0)})["rows"].shape == (7, 768)
    assert str(caught.value).isprintable()
    assert capfd.readouterr() == ("", ""), "it is said once"


@pytest.mark.parametrize("engine_class", ENGINES)
def test_a_message_that_is_no_text_is_escaped(engine_class, capfd):
    graph = toy_frame().replace(b"Relu", b"\xff\x1b[2")
    with pytest.raises(PlanMismatch, match=r"cannot run this graph: .*\\xff\\x1b\[2") as caught:
        engine_class(graph)
    assert str(caught.value).isprintable()
    assert capfd.readouterr().out == "", "stdout belongs to results"


def test_what_is_said_is_one_short_printable_line():
    assert said(RuntimeError("src/a.cpp:1:\n  bad \x1b[31m node\n")) == "src/a.cpp:1: bad \\x1b[31m node"
    assert said(RuntimeError("Exception from a.cpp:1:\nbad node\n"), ("Exception from",)) == "bad node"
    assert said(MemoryError()) == "MemoryError"
    assert len(said(RuntimeError("x" * 9999))) < 500


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_a_number_of_threads_that_cannot_be_is_refused(tmp_path, threads):
    members = {"frame.fp32.onnx": toy_frame(), "clip.fp32.onnx": toy_clip()}
    plan = Plan.write(tmp_path / "vlf.plan", toy_manifest(), members, {})
    with pytest.raises(VlfError, match=f"threads is {threads}; expected 1 to 1024"):
        open_engines(plan, threads=threads)


def test_openvino_takes_the_threads_and_pins_none():
    with OpenVINOEngine(toy_frame(), threads=1) as engine:
        assert engine._model.get_property("INFERENCE_NUM_THREADS") == 1
        assert engine._model.get_property("ENABLE_CPU_PINNING") is False


@pytest.mark.parametrize(
    "flags, saturates",
    [
        ("fpu sse2 avx avx2 fma", True),
        ("fpu sse2 avx avx2 avx_vnni", False),
        ("fpu avx512f avx512bw", True),
        ("fpu avx512f avx512_vnni", False),
        ("fpu avx512f amx_tile amx_int8", False),
    ],
)
def test_a_cpu_that_cannot_multiply_int8_exactly_is_known(tmp_path, monkeypatch, flags, saturates):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: none\n")
    monkeypatch.setattr("vlf_edge.backends.cpu.platform.machine", lambda: "x86_64")
    assert int8_saturates.__wrapped__(cpuinfo) == saturates
    monkeypatch.setattr("vlf_edge.backends.cpu.platform.machine", lambda: "aarch64")
    assert not int8_saturates.__wrapped__(cpuinfo)


def test_without_proc_nothing_is_assumed(tmp_path):
    assert not int8_saturates.__wrapped__(tmp_path / "none")


@pytest.mark.parametrize("engine", ENGINES)
def test_where_int8_saturates_a_graph_is_computed_as_it_is_written(engine, monkeypatch):
    """Weights and inputs at their largest: pairs of products that do not fit into 16 bits."""
    rng = np.random.default_rng(0)
    weight = np.sign(rng.normal(size=(64, 8))).astype(np.float32) * 127
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["dq"]),
        helper.make_node("DequantizeLinear", ["w", "one", "zero"], ["wdq"]),
        helper.make_node("MatMul", ["dq", "wdq"], ["y"]),
    ]
    constants = [
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("zero", TensorProto.INT8, [], [0]),
        helper.make_tensor("w", TensorProto.INT8, weight.shape, weight.astype(np.int8).tobytes(), raw=True),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    monkeypatch.setattr(f"{engine.__module__}.int8_saturates", lambda: True)
    given = np.full((3, 64), 127, np.float32)
    with engine(model.SerializeToString(), precision="int8") as opened:
        np.testing.assert_allclose(opened.infer({"x": given})["y"], given @ weight, rtol=1e-5)


@pytest.mark.parametrize("machine, in_float", [("x86_64", {"frame"}), ("aarch64", set())])
def test_onnx_runtime_convolves_in_float_where_its_int8_convolutions_are_slower(plans, machine, in_float, monkeypatch):
    monkeypatch.setattr("vlf_edge.backends.cpu.platform.machine", lambda: machine)
    monkeypatch.setattr("vlf_edge.backends.onnxruntime.int8_saturates", lambda: False)
    plan = Plan.open(plans["int8"])
    graphs = {stage: plan.graph(stage, "portable") for stage in plan.manifest.stages}
    assert {stage for stage, graph in graphs.items() if backends.onnxruntime._better_in_float(graph)} == in_float


def test_an_int8_plan_says_that_it_is_no_faster_here(plans, caplog, monkeypatch):
    monkeypatch.setattr("vlf_edge.backends.selection.int8_saturates", lambda: True)
    for precision, said_so in (("int8", True), ("fp32", False)):
        caplog.clear()
        for opened in open_engines(Plan.open(plans[precision]), backend="openvino").values():
            opened.close()
        assert ("computes the int8 plan in float" in caplog.text) == said_so


@pytest.mark.parametrize("kernels", ["of int8", "chosen here"])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_batch_is_answered_as_its_items_one_by_one(plans, backend, kernels, monkeypatch):
    """The gate measures one by one, as a stream runs; clips and several streams run in batches."""
    if kernels == "of int8":  # also where the CPU multiplies int8 inexactly, and a plan never gets them
        monkeypatch.setattr(getattr(backends, backend), "int8_saturates", lambda: False)
    plan = Plan.open(plans["int8"])
    prepare, frames = Preprocessor(plan.manifest.preprocess), plan.manifest.sampling.frames
    with open_source("test://motion?seconds=5&fps=8&width=96&height=64&seed=3") as source:
        images = np.stack([prepare(frame.image) for frame in source])

    def answers(stages, batch):
        tokens = stages["frame"](images, batch)
        windows = np.stack([tokens[first : first + frames] for first in range(len(tokens) - frames)])
        return stages["clip"](windows, batch)

    fp32 = {stage: OnnxRuntimeEngine(plan.graph(stage, "fp32")) for stage in plan.manifest.stages}
    truth = answers(as_functions(fp32), MAX_BATCH)
    int8 = as_functions(open_engines(plan, backend=backend))
    alone = answers(int8, 1)
    cost = np.linalg.norm(alone - truth)
    assert cost > 0
    for batch in (frames, MAX_BATCH):
        assert np.linalg.norm(answers(int8, batch) - alone) < 0.1 * cost, batch


def as_functions(engines):
    """{stage: function of (items, largest batch)}"""

    def function_of(engine):
        (given,), name = engine.inputs, "logits" if len(engine.outputs) > 1 else engine.outputs[0].name
        return lambda items, batch: engine.infer_all({given.name: items}, batch)[name]

    return {stage: function_of(engine) for stage, engine in engines.items()}
