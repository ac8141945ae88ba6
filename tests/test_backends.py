"""OpenVINO and ONNX Runtime on toy graphs, each the other's referee."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import manifest_of
from toy_graphs import toy_clip, toy_frame

from vlf_edge import Plan, backends
from vlf_edge.backends.onnxruntime import OnnxRuntimeEngine
from vlf_edge.backends.openvino import OpenVINOEngine, shared_core
from vlf_edge.backends.selection import open_engines
from vlf_edge.errors import BackendMissing, PlanError, PlanMismatch, ShapeError

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")

ENGINES = [OpenVINOEngine, OnnxRuntimeEngine]


def _images(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, 16, 16, 3), np.uint8)


def _error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("engine_class", ENGINES)
def test_specs_are_those_of_the_graph(engine_class):
    with engine_class(toy_frame()) as engine:
        assert [str(s) for s in engine.inputs] == ["image uint8(N, 16, 16, 3)"]
        assert [str(s) for s in engine.outputs] == ["tokens float32(N, 16, 4)"]
        assert engine.dynamic_batch and engine.max_batch is None
    with engine_class(toy_clip(batch=2)) as engine:
        assert [str(s) for s in engine.inputs] == ["tokens float32(2, 3, 16, 4)"]
        assert not engine.dynamic_batch
        with pytest.raises(ShapeError, match=r"is float32\(1, 3, 16, 4\), expected tokens float32\(2, 3, 16, 4\)"):
            engine.infer({"tokens": np.zeros((1, 3, 16, 4), np.float32)})


@pytest.mark.parametrize("batch", [1, 3])
def test_both_agree_on_both_stages(batch):
    results = {}
    for engine_class in ENGINES:
        with engine_class(toy_frame()) as frame, engine_class(toy_clip()) as clip:
            tokens = frame.infer({"image": _images(3 * batch)})["tokens"]
            logits = clip.infer({"tokens": tokens.reshape(batch, 3, 16, 4)})["logits"]
        assert logits.shape == (batch, 5) and logits.dtype == np.float32
        results[engine_class] = tokens, logits
    for got, want in zip(*results.values()):
        assert _error(got, want) < 1e-5


@pytest.mark.parametrize("engine_class", ENGINES)
def test_a_batch_equals_as_many_singles(engine_class):
    images = _images(5)
    with engine_class(toy_frame()) as engine:
        together = engine.infer({"image": images})["tokens"]
        one_by_one = np.concatenate([engine.infer({"image": image[None]})["tokens"] for image in images])
    assert _error(together, one_by_one) < 1e-5


@pytest.mark.parametrize("engine_class", ENGINES)
def test_outputs_belong_to_the_caller_even_after_close(engine_class):
    engine = engine_class(toy_frame())
    first = engine.infer({"image": _images(1, seed=1)})["tokens"]
    kept = first.copy()
    second = engine.infer({"image": _images(1, seed=2)})["tokens"]
    assert np.abs(second - kept).max() > 0.1
    np.testing.assert_array_equal(first, kept)
    engine.close()
    engine.close()
    np.testing.assert_array_equal(first, kept)
    with pytest.raises(RuntimeError, match="closed"):
        engine.infer({"image": _images(1)})


@pytest.mark.parametrize("engine_class", ENGINES)
def test_inputs_may_be_views_or_read_only_and_are_left_alone(engine_class):
    images = _images(2)
    before = images.copy()
    with engine_class(toy_frame()) as engine:
        want = engine.infer({"image": np.ascontiguousarray(images[:, ::-1, ::-1])})["tokens"]
        images.setflags(write=False)
        got = engine.infer({"image": images[:, ::-1, ::-1]})["tokens"]
        engine.infer({"image": images})
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("engine_class", ENGINES)
def test_threads_change_no_answer(engine_class):
    with engine_class(toy_frame(), threads=1) as one, engine_class(toy_frame()) as many:
        images = {"image": _images(2)}
        assert _error(one.infer(images)["tokens"], many.infer(images)["tokens"]) < 1e-5


def test_openvino_computes_in_float32_unless_the_plan_is_fp16():
    for precision in ("fp32", "int8"):
        with OpenVINOEngine(toy_frame(), precision=precision) as engine:
            assert engine.precision_hint == "f32"
    default = shared_core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    with OpenVINOEngine(toy_frame(), precision="fp16") as engine:
        assert engine.precision_hint == default


def test_signals_are_safe_after_engines_closed_in_any_order():
    """Every OpenVINO core changes its thread's stack for signal handlers, and gives it back when destroyed."""
    program = """
import gc, signal, sys
sys.path.insert(0, sys.argv[1])
from toy_graphs import toy_frame
from vlf_edge.backends.openvino import OpenVINOEngine
first, second = OpenVINOEngine(toy_frame()), OpenVINOEngine(toy_frame())
for engine in (first, second):
    engine.close()
gc.collect()
signal.signal(signal.SIGUSR1, lambda number, frame: print("handled"))
signal.raise_signal(signal.SIGUSR1)
"""
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_a_plan_opens_on_either(tmp_path):
    members = {"frame.fp32.onnx": toy_frame(), "clip.fp32.onnx": toy_clip()}
    plan = Plan.write(tmp_path / "vlf.plan", manifest_of({"frame": toy_frame(), "clip": toy_clip()}), members, {})
    logits = {}
    for backend in ("openvino", "onnxruntime"):
        engines = open_engines(plan, backend=backend)
        assert {engine.backend for engine in engines.values()} == {backend}
        tokens = engines["frame"].infer({"image": _images(3)})["tokens"]
        logits[backend] = engines["clip"].infer({"tokens": tokens[None]})["logits"]
        for engine in engines.values():
            engine.close()
    assert _error(logits["openvino"], logits["onnxruntime"]) < 1e-5


def test_a_plan_whose_second_stage_is_damaged_gives_one_sentence(tmp_path):
    members = {"frame.fp32.onnx": toy_frame(), "clip.fp32.onnx": b"garbage" * 9}
    plan = Plan.write(tmp_path / "vlf.plan", manifest_of({"frame": toy_frame(), "clip": toy_clip()}), members, {})
    with pytest.raises(PlanError, match="clip.fp32.onnx is no ONNX graph that a plan may hold"):
        open_engines(plan, backend="onnxruntime")


@pytest.mark.parametrize(
    ("engine_class", "words"),
    [(OpenVINOEngine, "OpenVINO .*model is correct"), (OnnxRuntimeEngine, "ONNX Runtime .*PROTOBUF")],
)
def test_a_damaged_graph_gives_the_librarys_words(engine_class, words):
    with pytest.raises(PlanMismatch, match=words):
        engine_class(b"garbage" * 9)


@pytest.mark.parametrize(
    ("engine_class", "words"),
    [(OpenVINOEngine, r"openvino .*'vlf_edge\[cpu\]'"), (OnnxRuntimeEngine, r"onnxruntime .*'vlf_edge\[build\]'")],
)
def test_a_missing_library_gives_its_install_line(monkeypatch, engine_class, words):
    monkeypatch.setattr(backends, "installed", lambda name: False)
    with pytest.raises(BackendMissing, match=words):
        engine_class(toy_frame())


def test_a_broken_library_gives_its_own_words(monkeypatch):
    def broken(name):
        raise ImportError("libopenvino.so: cannot open shared object file")

    monkeypatch.setattr(backends.importlib, "import_module", broken)
    with pytest.raises(BackendMissing, match=r"libopenvino.so: cannot open.*reinstall it .*'vlf_edge\[cpu\]'"):
        backends.load("openvino")
