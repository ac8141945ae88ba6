"""What benchmarks/gpu.py counts, computes and prints, on the CPU: the contenders that need no GPU decide alike."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import gpu_contenders
import gpu_measure
import gpu_roofline
import gpu_starts
import numpy as np
import onnx_toys
import pytest
import torch
from conftest import BENCHMARKS
from fake_cuda import FakeCuda
from fake_tensorrt import fake_tensorrt
from onnx import numpy_helper
from torch import nn
from toy_graphs import toy_clip, toy_frame

from vlf_edge import BackendMissing, Manifest, Plan, Preprocess, Runtime, Sampling, VlfError
from vlf_edge.backends import cuda
from vlf_edge.compiler.fp32_model import SHIPPED_PLAN
from vlf_edge.compiler.graph import initializers, parse, tensor_specs
from vlf_edge.compiler.quantization.float16 import to_float16
from vlf_edge.manifest import Graph
from vlf_edge.models import create_model
from vlf_edge.models.stage import Stage


def _newer(onnx_bytes: bytes) -> bytes:
    """The same operators as opset 19, the oldest that the compiler takes."""
    model = parse(onnx_bytes)
    model.opset_import[0].version = 19
    return model.SerializeToString()


GRAPHS = {"frame": _newer(toy_frame()), "clip": _newer(toy_clip())}
PEAKS = {"int8": 400.0, "fp16": 200.0, "fp32": 100.0, "copy": 1000.0}


def _weights(stage: str) -> dict[str, torch.Tensor]:
    constants = initializers(parse(GRAPHS[stage])).items()
    return {name: torch.from_numpy(numpy_helper.to_array(value).copy()) for name, value in constants}


class Frame(nn.Module):
    """toy_frame in PyTorch."""

    def __init__(self):
        super().__init__()
        self.kernel, self.weight = (nn.Parameter(_weights("frame")[name]) for name in ("kernel", "weight"))

    def forward(self, images):
        x = nn.functional.conv2d(images.float().permute(0, 3, 1, 2), self.kernel, stride=4, padding=1)
        return x.relu().flatten(2).transpose(1, 2) @ self.weight


class Clip(nn.Module):
    """toy_clip in PyTorch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(_weights("clip")["weight"])

    def forward(self, tokens):
        return tokens.flatten(1) @ self.weight


@pytest.fixture(scope="module")
def plans(tmp_path_factory) -> dict[str, Plan]:
    folder, made = tmp_path_factory.mktemp("plans"), {}
    for precision in ("fp32", "fp16"):
        typed = {stage: to_float16(data) if precision == "fp16" else data for stage, data in GRAPHS.items()}
        members, graphs = {}, []
        for stage in GRAPHS:
            for kind, data in (("fp32", GRAPHS[stage]), ("portable", GRAPHS[stage]), ("typed", typed[stage])):
                members[f"{stage}.{kind}.onnx"] = data
                graphs.append(Graph(stage, kind, f"{stage}.{kind}.onnx", *tensor_specs(data)))
        manifest = Manifest(
            {"name": "toy"}, tuple("abcde"), Preprocess(16, 16, 16), Sampling(3, 0.75), precision, ("frame", "clip"),
            tuple(graphs), {"origin": "random", "seed": 0},
        )  # fmt: skip
        made[precision] = Plan.write(folder / f"{precision}.plan", manifest, members, {})
    return made


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    return {stage: Stage(stage, module, *tensor_specs(GRAPHS[stage]))
            for stage, module in (("frame", Frame()), ("clip", Clip()))}  # fmt: skip


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)


def test_multiply_adds_and_bytes_are_those_of_a_hand_count():
    frame, clip = (gpu_roofline.count(GRAPHS[stage]) for stage in ("frame", "clip"))
    assert frame.multiply_adds == {"fp32": 8 * 4 * 4 * 3 * 3 * 3 + 16 * 4 * 8}
    assert frame.weight_bytes == 4 * (8 * 3 * 3 * 3 + 8 * 4) + 3 * 8  # the shape of a Reshape too: int64
    assert frame.item_bytes == 16 * 16 * 3 + 4 * 16 * 4
    assert clip.multiply_adds == {"fp32": 192 * 5} and clip.item_bytes == 4 * (192 + 5)
    half = gpu_roofline.count(to_float16(GRAPHS["frame"]))
    assert half.multiply_adds == {"fp16": 3968} and half.item_bytes == 16 * 16 * 3 + 2 * 16 * 4
    # Attention and both layouts of Gemm: q, k, v; scores and values; the two layers of the head.
    attention = gpu_roofline.count(onnx_toys.clip_toy())
    assert attention.multiply_adds == {"fp32": 3 * 32 * 8 * 8 + 2 * 32 * 32 * 8 + 8 * 16 + 16 * 5}


def test_layers_read_what_the_layer_before_wrote():
    frame = gpu_roofline.count(GRAPHS["frame"])
    conv, linear = frame.layers
    assert conv.multiply_adds == {"fp32": 8 * 4 * 4 * 3 * 3 * 3} and linear.multiply_adds == {"fp32": 16 * 4 * 8}
    assert (conv.weight_bytes, conv.item_bytes) == (4 * 8 * 3 * 3 * 3, 4 * (3 * 16 * 16 + 8 * 4 * 4))
    assert (linear.weight_bytes, linear.item_bytes) == (4 * 8 * 4, 4 * (16 * 8 + 16 * 4))
    half = gpu_roofline.count(to_float16(GRAPHS["frame"])).layers
    assert [(layer.weight_bytes, layer.item_bytes) for layer in half] == [
        (layer.weight_bytes // 2, layer.item_bytes // 2) for layer in (conv, linear)
    ]
    # Attention: neither factor of its products is a weight. Quantised products read and write single bytes.
    plain = gpu_roofline.count(onnx_toys.clip_toy()).layers
    assert sum(layer.weight_bytes == 0 for layer in plain) == 2
    made = gpu_roofline.count(onnx_toys.quantized("clip").onnx).layers
    small = [(a, b) for a, b in zip(made, plain) if "int8" in a.multiply_adds]
    assert small and all((4 * a.weight_bytes, 4 * a.item_bytes) == (b.weight_bytes, b.item_bytes) for a, b in small)


def test_the_roofline_of_layers_adds_up_the_longer_of_each():
    computes = gpu_roofline.Work({"fp16": 100}, weight_bytes=10, item_bytes=1)
    moves = gpu_roofline.Work({"fp16": 1}, weight_bytes=0, item_bytes=500)
    both = gpu_roofline.Work({"fp16": 101}, weight_bytes=10, item_bytes=20, layers=(computes, moves))
    assert both.layers_s(2, PEAKS) == pytest.approx(2 * 100 / 200 + 2 * 500 / 1000)
    assert both.least_s(2, PEAKS) == pytest.approx(2 * 101 / 200), "what lies between them counts for nothing there"
    assert both.layers_s(2, {"fp16": 1.0}) is None and computes.layers_s(1, PEAKS) is None
    assert (both + both).layers_s(1, PEAKS) == pytest.approx(2 * both.layers_s(1, PEAKS))


def test_quantised_products_count_as_int8_and_the_rest_in_its_float():
    fp32 = gpu_roofline.count(onnx_toys.clip_toy()).multiply_adds["fp32"]
    made = onnx_toys.quantized("clip")
    attention = 2 * 32 * 32 * 8
    assert set(made.kept_float) == {"scores", "values"}
    assert gpu_roofline.count(made.onnx).multiply_adds == {"int8": fp32 - attention, "fp32": attention}
    typed = gpu_roofline.count(to_float16(made.onnx))
    assert typed.multiply_adds == {"int8": fp32 - attention, "fp16": attention}
    assert typed.weight_bytes < gpu_roofline.count(to_float16(onnx_toys.clip_toy())).weight_bytes


def test_the_roofline_is_the_longer_of_computing_and_moving():
    work = gpu_roofline.Work({"int8": 800, "fp16": 100}, weight_bytes=2000, item_bytes=1)
    assert work.least_s(1, PEAKS) == pytest.approx(800 / 400 + 100 / 200)  # 2.5 s of products, 2.001 s of copies
    few = gpu_roofline.Work({"fp16": 100}, weight_bytes=2000, item_bytes=1)
    assert few.least_s(1, PEAKS) == pytest.approx(2.001)  # at batch 1 the weights decide
    assert few.least_s(100, PEAKS) == pytest.approx(50)  # at batch 100 the products
    assert work.least_s(1, {"fp16": 1.0, "copy": 1.0}) is None, "without int8's peak nothing is claimed"
    both = work + few
    assert (both.multiply_adds, both.weight_bytes, both.item_bytes) == ({"int8": 800, "fp16": 200}, 4000, 2)


def test_peaks_are_measured_and_what_cannot_be_has_a_reason():
    peaks, missing = gpu_roofline.measure_peaks("cpu", side=64, copy_bytes=1 << 16)
    assert {"copy", "fp32"} <= peaks.keys() and all(rate > 0 for rate in peaks.values())
    assert peaks.keys() | missing.keys() == {"copy", "int8", "fp16", "fp32"} and not peaks.keys() & missing.keys()


def test_peaks_are_those_of_data_and_not_of_ones():
    for kind in ("int8", "fp16", "fp32"):
        values = gpu_roofline.random(kind, (64, 64), "cpu").double()
        assert values.std() > 0.9 and abs(values.mean()) < 3, kind


class Recorded:
    """torch.cuda where nothing is: streams by number, the current one, and how a graph was captured."""

    def __init__(self, monkeypatch, default=0):
        self.current, self.captures = SimpleNamespace(cuda_stream=default, wait_stream=lambda other: None), []
        side = SimpleNamespace(cuda_stream=77, wait_stream=lambda other: None)
        for name, value in {
            "Stream": lambda device=None: side, "stream": self._inside,
            "current_stream": lambda device=None: self.current,
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None), "synchronize": lambda device=None: None,
            "graph": lambda recorded, **how: self.captures.append(how) or nullcontext(),
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)

    @contextmanager
    def _inside(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before


def test_everything_runs_on_a_stream_of_its_own(monkeypatch, plans, images):
    cuda_ = Recorded(monkeypatch)
    with pytest.raises(VlfError, match="default stream"):
        gpu_contenders.stream_handle("cuda:0")
    with gpu_contenders.own_stream("cuda:0"):
        assert gpu_contenders.stream_handle("cuda:0") == 77
    assert cuda_.current.cuda_stream == 0
    opened = []

    def opener():
        opened.append(gpu_contenders.stream_handle("cuda:0"))
        raise BackendMissing("enough")

    monkeypatch.setattr(gpu_measure, "measure_peaks", lambda device: ({}, {}))
    gpu_measure.measure(plans, [("x", "fp32", opener)], images, (1,), "cuda:0", 1, lambda *step: None)
    assert opened == [77]


def test_a_graph_does_not_mind_what_other_threads_do(monkeypatch):
    cuda_ = Recorded(monkeypatch)
    replay = gpu_contenders.graphed(lambda images: images + 1, torch.zeros(2))
    assert cuda_.captures == [{"capture_error_mode": "thread_local"}]
    assert replay(torch.ones(2)).shape == (2,)


@pytest.mark.parametrize(("graph", "capturable"), [(False, False), (True, True), (True, False)])
def test_tensorrt_rtx_compiles_at_once_and_is_asked_before_a_capture(monkeypatch, plans, graph, capturable):
    Recorded(monkeypatch, default=5)
    queued, config = [], SimpleNamespace()
    context = SimpleNamespace(
        set_input_shape=lambda name, shape: True, set_tensor_address=lambda name, pointer: True,
        execute_async_v3=lambda handle: queued.append(handle) or True, is_stream_capturable=lambda handle: capturable,
    )  # fmt: skip
    trt = fake_tensorrt(FakeCuda(), "1.7.1", rtx=True)
    opened = SimpleNamespace(
        create_runtime_config=lambda: config,
        create_execution_context=lambda given: context if given is config else None,
    )
    trt.Runtime = lambda log: SimpleNamespace(deserialize_cuda_engine=lambda data: opened)
    monkeypatch.setattr(gpu_contenders, "load", lambda library: trt)
    monkeypatch.setattr(gpu_contenders, "resolve_targets", lambda name: [name])
    monkeypatch.setattr(gpu_contenders, "build_engines", lambda *args, **options: [(None, b"engine")])
    monkeypatch.setattr(gpu_contenders, "empty", lambda spec, batch, device: torch.zeros(1))
    engines = {}
    contender = gpu_contenders.tensorrt_contender(plans["fp16"], "tensorrt_rtx", 4, engines, graphed=graph)
    if graph and not capturable:
        with pytest.raises(VlfError, match="batch 2 cannot be recorded as a CUDA graph"):
            contender.open("frame", 2)
        return
    contender.open("frame", 2)(torch.zeros(1))
    assert queued == [5]
    assert config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
    assert config.cuda_graph_strategy.name == "DISABLED" and config in engines.values()


def test_every_way_decides_as_the_fp32_graphs_do(plans, stages, images):
    def broken():
        raise BackendMissing("no such library here", remedy="advice")

    programs = gpu_contenders.Programs(stages, 3, "cpu")

    def eager(precision):
        return lambda: gpu_contenders.torch_contender("torch eager", programs, plans[precision])

    contenders = [("torch eager", precision, eager(precision)) for precision in plans]
    contenders += [("onnxruntime CPU", "fp16", lambda: gpu_contenders.onnxruntime_contender(plans["fp16"], "cpu"))]
    contenders += [("tensorrt", "fp16", broken)]
    found = gpu_measure.measure(
        plans, contenders, images, (1, 3), "cpu", 3, lambda *step: None, side=32, copy_bytes=1 << 12
    )
    rows = [row for row in found["rows"] if "not_measured" not in row]
    seen = {(row["engine"], row["precision"], row["batch"], row["part"]) for row in rows}
    engines = [("torch eager", "fp32"), ("torch eager", "fp16"), ("onnxruntime CPU", "fp16")]
    assert seen == {(*engine, batch, part) for engine in engines for batch in (1, 3) for part in gpu_measure.PARTS}
    for row in rows:
        assert row["difference"] < (1e-5 if row["precision"] == "fp32" else 1e-2), row
        assert row["p99_ms"] >= row["p50_ms"] > 0 and row["items_per_s"] > 0
        assert all(row[name] is None or row[name] > 0 for name in ("roofline_share", "layers_share"))
        assert (row["roofline_share"] is None) == (row["layers_share"] is None)
    (missing,) = [row for row in found["rows"] if "not_measured" in row]
    assert missing == {"engine": "tensorrt", "precision": "fp16", "batch": None, "not_measured": "no such library here"}
    assert found["work"]["fp16"]["decision"]["multiply_adds"] == {"fp16": 3968 + 960}


def test_every_stage_is_traced_once_for_a_precision(monkeypatch, plans, stages, images):
    traced, really = [], gpu_contenders.trace

    def trace(stage, precision, *rest):
        traced.append((stage.name, precision))
        return really(stage, precision, *rest)

    monkeypatch.setattr(gpu_contenders, "trace", trace)
    programs = gpu_contenders.Programs(stages, 3, "cpu", same_weights=False)
    contenders = [
        (name, "fp32", lambda name=name: gpu_contenders.torch_contender(name, programs, plans["fp32"]))
        for name in ("torch eager", "torch CUDA graph")
    ]
    sizes = {"side": 32, "copy_bytes": 1 << 12}
    found = gpu_measure.measure(plans, contenders, images, (1, 2, 3), "cpu", 1, lambda *step: None, **sizes)
    assert sorted(traced) == [("clip", "fp32"), ("frame", "fp32")]
    assert len(found["rows"]) == 2 * 3 * 3 and all(row["difference"] is None for row in found["rows"])


def test_the_most_important_comes_first_and_nothing_begins_after_its_time(plans, images):
    now_s, begun = [0.0], []

    def contender(name):
        def open_stage(stage, batch):
            begun.append((name, batch))
            now_s[0] += 60
            raise VlfError("took a minute")

        return name, "fp32", lambda: gpu_contenders.Contender(name, "fp32", open_stage)

    contenders = [contender(name) for name in ("onnxruntime CUDA", "torch eager", "tensorrt + CUDA graph")]

    def measured(**limit):
        begun.clear()
        about = {"progress": lambda *step: None, "side": 32, "copy_bytes": 1 << 12, **limit}
        return gpu_measure.measure({"fp32": plans["fp32"]}, contenders, images, (1, 2, 8), "cpu", 1, **about)

    rows = measured(until_s=250, clock=lambda: now_s[0])["rows"]
    at_one = ["tensorrt + CUDA graph", "torch eager", "onnxruntime CUDA"]
    assert begun == [*((name, 1) for name in at_one), (at_one[0], 8), (at_one[1], 8)]
    late = [(row["engine"], row["batch"]) for row in rows if row["not_measured"] == "no time was left"]
    assert late == [(at_one[2], 8), *((name, 2) for name in at_one)]
    measured()
    assert [batch for _, batch in begun] == [1, 2, 8] * 3, "with time for all, one contender after the other"


def test_pytorch_has_the_weights_of_a_plan_that_a_seed_gives_again():
    shipped = Plan.open(SHIPPED_PLAN)
    assert not gpu_contenders.programs_of(shipped, 2, "cpu").same_weights
    about = replace(shipped.manifest, weights={"origin": "random", "seed": 3})
    made = gpu_contenders.programs_of(SimpleNamespace(manifest=about), 2, "cpu")
    (again, *_) = create_model(shipped.manifest.model["name"], len(about.labels), seed=3).stages()
    mine, theirs = (list(stage.module.parameters()) for stage in (made._stages["frame"], again))
    assert made.same_weights and all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_a_decision_is_over_the_last_k_images_of_each_stream(plans, stages, images):
    plan = plans["fp32"]
    contender = gpu_contenders.torch_contender("torch eager", gpu_contenders.Programs(stages, 2, "cpu"), plan)
    window = plan.manifest.graph("clip", "typed").inputs[0]
    decision = gpu_contenders.Decision(contender.open("frame", 2), contender.open("clip", 2), window, 2, "cpu")
    for step in range(5):
        logits = decision(torch.from_numpy(gpu_measure.stream_images(images, 2, step)))
    for stream in range(2):
        last = images[[(7 * stream + step) % len(images) for step in (2, 3, 4)]]
        expected = gpu_measure.reference_logits(plan, last)
        assert np.allclose(logits[stream].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_wrong_engine_shows_in_the_difference(plans, stages, images):
    wrong = {**stages, "frame": Stage("frame", Frame(), *tensor_specs(GRAPHS["frame"]))}
    with torch.no_grad():
        wrong["frame"].module.weight.mul_(1.5)
    programs = gpu_contenders.Programs(wrong, 1, "cpu")
    contender = gpu_contenders.torch_contender("torch eager", programs, plans["fp32"])
    opener = ("torch eager", "fp32", lambda: contender)
    sizes = {"side": 32, "copy_bytes": 1 << 12}
    found = gpu_measure.measure(plans, [opener], images, (1,), "cpu", 1, lambda *step: None, **sizes)
    assert len(found["rows"]) == 3 and all(row["difference"] > 0.1 for row in found["rows"])


def test_the_package_itself_is_timed_over_whole_decisions(plans, images):
    with Runtime(plans["fp32"], backend="onnxruntime") as runtime:
        row = gpu_measure.runtime_row(runtime, images, 5)
        decisions = runtime.recognizer.total().counts["decisions"]
    assert decisions == 1 + 3 * 5, "the window is full before the first of the warm-up, single and queued calls"
    assert (row["engine"], row["part"], row["batch"]) == ("Runtime on onnxruntime", "decision", 1)


def test_starts_are_timed_with_more_and_more_kept(plans, images, tmp_path):
    """On the CPU, where nothing is kept: three starts in an order that throws away what was kept before."""
    (tmp_path / "vlf_edge" / "kernels").mkdir(parents=True)
    frames = images[: plans["fp32"].manifest.sampling.frames]
    rows = gpu_starts.starts(plans["fp32"], "onnxruntime", frames, tmp_path)
    assert [row["kept"] for row in rows] == ["nothing", "engines", "engines and kernels"]
    assert all(row["first_decision_s"] > 0 for row in rows) and not (tmp_path / "vlf_edge" / "kernels").exists()


def _row(part, engine, precision, batch, p50_ms, items_per_s, share=None):
    return {"part": part, "engine": engine, "precision": precision, "batch": batch, "p50_ms": p50_ms,
            "p99_ms": 2 * p50_ms, "items_per_s": items_per_s, "roofline_share": share and share / 5,
            "layers_share": share, "difference": 0.001}  # fmt: skip


ROWS = [
    _row("decision", "torch eager", "fp32", 1, 8.0, 120),
    _row("decision", "torch.compile", "fp16", 1, 3.0, 300),
    _row("decision", "tensorrt", "fp16", 1, 2.0, 500),
    _row("decision", "tensorrt", "int8", 1, 1.5, 600),
    _row("decision", "tensorrt", "int8", 256, 20.0, 12_345),
    _row("frame", "tensorrt", "fp16", 256, 10.0, 25_000, 0.41),
    gpu_measure.not_measured("tensorrt_rtx", "fp16", VlfError("no SM90\nmore")),
    gpu_measure.not_measured("tensorrt", "fp16", torch.OutOfMemoryError("no memory"), 128),
]


def test_goals_are_computed_from_what_was_measured_and_nothing_else():
    lines = gpu_measure.goals(ROWS)
    assert lines[0] == "one stream: tensorrt int8 is 5.33 times as fast as torch eager fp32 (goal: 4)"
    assert lines[1] == "one stream: tensorrt int8 is 2.00 times as fast as torch.compile fp16 (goal: 1.5)"
    reached = "41% of its layers' roofline (goal: 50 %), 8% of the stage's"
    assert lines[2] == f"frame, batch 256: tensorrt fp16 reaches {reached}"
    assert lines[3].startswith("capacity: 1234 streams of 10 decisions a second (goal: 1000), computed from 12345 ")
    assert len(lines) == 4
    without = [row for row in ROWS if "not_measured" in row or not row["engine"].startswith("tensorrt")]
    (capacity,) = gpu_measure.goals(without)
    assert "torch.compile fp16 at batch 1" in capacity and capacity.startswith("capacity: 30 streams")
    assert gpu_measure.goals([]) == ["nothing was measured that a goal speaks of"]


def test_the_table_names_the_machine_and_every_row_that_is_missing():
    gpu = {
        "name": "A GPU",
        "compute_capability": "9.0",
        "driver": "580.1",
        "power_limit": "700 W",
        "max_clock": "2 GHz",
    }
    machine = {"cpu": "c", "os": "o", "load_average": 0.0, "versions": {"torch": "2.14"}, "gpu": gpu}
    peaks = {"fp16": 4e14, "copy": 4.2e12}
    figures = {"machine": machine, "model": "vlf", "weights": "random weights", "source": "clip", "calls": 9}
    figures |= {"peaks": peaks, "rows": ROWS}
    figures["starts"] = [
        {"engine": "Runtime on tensorrt", "precision": "fp16", "kept": "engines", "first_decision_s": 1.234},
        gpu_measure.not_measured("start on tensorrt_rtx", "fp16", VlfError("no SM90")),
    ]
    lines = gpu_measure.table({**figures, "peaks_missing": {"int8": "no kernel"}}).splitlines()
    assert "first decision: Runtime on tensorrt fp16: 1.23 s with engines kept" in lines
    assert "first decision: start on tensorrt_rtx fp16: no SM90" in lines
    text = "\n".join(lines)
    assert "A GPU, compute capability 9.0, driver 580.1" in text and "torch 2.14" in text
    assert "fp16 400.0 T multiply-adds/s, copy 4200 GB/s" in text and "not measured: peak of int8: no kernel" in text
    assert "not measured: tensorrt_rtx fp16: no SM90" in lines
    assert "not measured: tensorrt fp16 at batch 128: no memory" in lines
    assert sum(line.startswith(("frame ", "decision ")) for line in lines) == 6


@pytest.mark.skipif(cuda.gpu() is not None, reason="there is a GPU here")
def test_without_a_gpu_there_is_one_sentence_and_status_1():
    done = subprocess.run([sys.executable, str(BENCHMARKS / "gpu.py")], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gpu.py: no usable NVIDIA GPU here") and done.stderr.count("\n") == 1


def test_plans_of_your_own_are_measured_within_the_minutes_given(monkeypatch, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("benchmarks_gpu", BENCHMARKS / "gpu.py")
    gpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu)
    asked = {}

    def measure(plans, contenders, images, batches, device, calls, progress, *, until_s):
        entries = [entry[:2] for entry in contenders]
        asked.update(plans=list(plans), contenders=entries, images=images.shape, batches=batches, until_s=until_s)
        return {"rows": []}

    monkeypatch.setattr(gpu, "measure", measure)
    monkeypatch.setattr(gpu, "describe_gpu", lambda: {})
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu.time, "monotonic", lambda: 1000.0)
    ask = ["gpu.py", "--source", "test://motion?seconds=1", "--only", "torch", "--batches", "4", "1", "--json"]
    monkeypatch.setattr(sys, "argv", [*ask, "--plan", str(SHIPPED_PLAN), "--minutes", "2"])
    gpu.main()
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["weights"]) == ("vlf-tiny", f"weights of {SHIPPED_PLAN}")
    assert asked["contenders"] == [("torch eager", "fp32")], "the others are of precisions that no plan has"
    assert (asked["plans"], asked["batches"], asked["until_s"]) == (["fp32"], [1, 4], 1120.0)
    assert asked["images"][1:] == (64, 64, 3)
    monkeypatch.setattr(sys, "argv", [*ask, "--minutes", "0"])
    with pytest.raises(SystemExit):
        gpu.main()
