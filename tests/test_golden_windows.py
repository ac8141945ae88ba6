"""Golden windows: what a build puts into a plan, and what an engine is held to at its first start on a machine."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
from conftest import CALIBRATION, LABELS, toy_graph, toy_manifest
from crafted import craft, parts_of
from machines import ALL, AMPERE, engine_info, given, plan_with
from test_executor import KINDS
from test_golden import GOLDEN
from test_tensorrt import cache  # noqa: F401
from test_tensorrt_executor import engines as gpu_engines
from test_tensorrt_executor import machine as gpu_machine  # noqa: F401

from vlf_edge import Plan, PlanError, Runtime
from vlf_edge.backends.fake import FakeEngine, fake_logits, fake_tokens
from vlf_edge.backends.onnxruntime import OnnxRuntimeEngine
from vlf_edge.backends.openvino import OpenVINOEngine
from vlf_edge.backends.selection import open_engines
from vlf_edge.cli import main
from vlf_edge.compiler import Recipe, build
from vlf_edge.compiler.accuracy.gate import at_least
from vlf_edge.compiler.accuracy.runners import AS_WRITTEN, open_stages
from vlf_edge.errors import VlfError, WrongAnswers
from vlf_edge.evaluation.classifier import open_classifier
from vlf_edge.export import onnx_folder
from vlf_edge.golden_windows import (
    ABOUT,
    FRAMES,
    MAX_FRAME_BYTES,
    WINDOWS,
    GoldenWindows,
    choose,
    read_golden,
    to_members,
)
from vlf_edge.runtime import self_test
from vlf_edge.runtime.executor import Executor
from vlf_edge.runtime.open_executor import open_executor
from vlf_edge.runtime.recognizer import Recognizer


def golden_of(logits: np.ndarray, **known) -> GoldenWindows:
    """With these answers (n, C), for the toy plan."""
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (len(logits) + 3, 32, 32, 3), np.uint8)
    windows = np.arange(len(logits))[:, None] + np.arange(4)
    known = {"relative": 0.0, "max_abs": 0.0, "precision": "fp32"} | known
    return GoldenWindows(frames, windows, logits.astype(np.float32), **known)


def fake_answers(golden: GoldenWindows) -> np.ndarray:
    """What the toy plan's fake engines give."""
    return np.stack([fake_logits(np.stack([fake_tokens(i, 4, 6) for i in w]), len(LABELS)) for w in golden])


@pytest.fixture
def golden() -> GoldenWindows:
    blank = golden_of(np.zeros((8, len(LABELS))))
    return replace(blank, logits=fake_answers(blank).astype(np.float32))


def write(path, golden, **changes) -> Plan:
    manifest = replace(toy_manifest(), **changes)
    members = {graph.member: toy_graph(graph) for graph in manifest.graphs}
    members |= {engine.member: engine.member.encode() for engine in manifest.engines}
    return Plan.write(path, manifest, members | to_members(golden), {})


def test_they_come_out_of_a_plan_as_they_went_in(tmp_path, golden):
    found = read_golden(write(tmp_path / "a.plan", replace(golden, relative=0.01, max_abs=0.25)))
    assert (found.frames == golden.frames).all() and (found.windows == golden.windows).all()
    assert np.allclose(found.logits, golden.logits, rtol=1e-5)
    assert (found.relative, found.max_abs, found.precision, len(found)) == (0.01, 0.25, "fp32", 8)
    assert [window.shape for window in found] == [(4, 32, 32, 3)] * 8
    assert read_golden(write(tmp_path / "b.plan", None)) is None


def test_readers_that_know_nothing_of_them_open_the_same_plan(tmp_path, golden):
    """They are members like any other: the manifest, and with it the format and the digest, has no field for them."""
    plan = write(tmp_path / "a.plan", golden)
    raw = plan.manifest.to_json()
    assert raw["format"] == 1 and set(raw) == set(toy_manifest().to_json())
    assert {ABOUT, FRAMES} < set(raw["members"])


@pytest.mark.parametrize(
    "change",
    [
        {"frames": 10}, {"frames": 12}, {"frames": 1 << 40}, {"frames": 11.0}, {"frames": True}, {"frames": None},
        {"windows": []}, {"windows": [[0, 1, 2, 11]] * 8}, {"windows": [[-1, 1, 2, 3]] * 8}, {"windows": [[0, 1]] * 8},
        {"windows": [[0, 1, 2, 3]] * 7}, {"windows": [[0.0, 1, 2, 3]] * 8}, {"windows": [[1 << 62] * 4] * 8},
        {"windows": "windows"}, {"logits": [[0.0] * 4] * 8}, {"logits": [["0"] * 5] * 8}, {"logits": [[1e300] * 5] * 8},
        {"logits": None}, {"measured": {}}, {"measured": {"relative": -1, "max_abs": 0}}, {"measured": [1]},
    ],
)  # fmt: skip
def test_windows_that_are_not_sound_are_refused(tmp_path, golden, change):
    manifest, members = parts_of(write(tmp_path / "a.plan", golden))
    about = json.dumps({**json.loads(members[ABOUT]), **change}).encode()
    with pytest.raises(PlanError, match="golden windows are not sound"):
        read_golden(Plan.open(craft(tmp_path / "x.plan", manifest, members | {ABOUT: about})))


@pytest.mark.parametrize("packed", [b"", b"no zlib", zlib.compress(bytes(9)), zlib.compress(bytes(64 << 20)), None])
def test_images_that_are_not_sound_are_refused(tmp_path, golden, packed, capsys):
    manifest, members = parts_of(write(tmp_path / "a.plan", golden))
    packed = members[FRAMES] + b"more" if packed is None else packed
    path = craft(tmp_path / "x.plan", manifest, members | {FRAMES: packed})
    assert main(["inspect", str(path), "--verify"]) == 1
    assert "golden windows are not sound" in capsys.readouterr().err


def test_a_few_of_many_windows_are_spread_and_mixed():
    windows = np.arange(800).reshape(100, 8)
    chosen = choose(windows, 5, 1000)[:, 0] // 8
    assert len(chosen) == WINDOWS == len(set(chosen)) and (np.diff(sorted(chosen)) >= 6).all()
    for first in (2, 4, 8):  # where there is no time for all
        assert np.ptp(chosen[:first]) > 50, chosen[:first]
    assert len(choose(windows[:5], 5, 1000)) == 5
    assert len(choose(windows, 100_000, 1000)) == 5
    assert len(choose(windows, 5, MAX_FRAME_BYTES // 24)) == 3 and len(choose(windows, 5, MAX_FRAME_BYTES)) == 0


CLEAR = 10 * np.eye(5)[np.arange(16) % 5]  # answers that fp32 is sure of


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x, ""),
        (lambda x: x + np.random.default_rng(0).normal(0, 0.05, x.shape), ""),
        (lambda x: np.where(x > 0, np.nan, x), "no numbers"),
        (lambda x: np.roll(x, 1, axis=1), "decides 16 of 16 windows otherwise"),
        (lambda x: x[:1].repeat(16, axis=0), "decides 12 of 16 windows otherwise"),
        (lambda x: x * 0, "decides 12 of 16 windows otherwise"),
        (lambda x: x * 1.2, "logits are off by 20.0%, at most 10.0% are allowed in int8"),
    ],
)
def test_what_is_held_against_an_engine(change, words):
    fault = golden_of(CLEAR, precision="int8").fault(change(CLEAR))
    assert (words in fault) if words else fault == ""


def test_near_ties_are_nobodys_fault():
    """What the build measured int8 to be off by can turn these decisions, and does."""
    tied = CLEAR.copy()
    tied[np.arange(16), (np.arange(16) + 1) % 5] = 9.5
    turned = tied.copy()
    turned[np.arange(16), (np.arange(16) + 1) % 5] = 10.1
    known = golden_of(tied, precision="int8", relative=0.04, max_abs=0.6)
    assert known.fault(turned) == "" and known.right(turned) == 16
    known = golden_of(tied, precision="fp32", max_abs=0.1)
    assert "decides 16 of 16" in known.fault(turned) and known.right(turned) == 0


def test_so_many_differences_are_hardly_ever_those_of_a_plan_within_its_gate():
    """A plan that differs in a tenth of all windows is refused at most once in twenty times."""
    for windows in (4, 8, 12, 16):
        assert at_least(windows // 4 + 1, windows, 0.1) < 0.055


def test_every_build_has_them_unless_told_otherwise(plans, tmp_path, capsys):
    for precision in ("fp32", "fp16", "int8"):
        plan = Plan.open(plans[precision])
        golden = read_golden(plan)
        assert (len(golden), golden.precision) == (WINDOWS, precision)
        assert main(["inspect", str(plan.path)]) == 0 and "golden windows: 16" in capsys.readouterr().out
        with open_stages(AS_WRITTEN, {stage: plan.graph(stage, "fp32") for stage in ("frame", "clip")}) as stages:
            tokens = stages["frame"](golden.frames)
            assert np.allclose(stages["clip"](tokens[golden.windows]), golden.logits, rtol=1e-4, atol=1e-4)
    assert golden.relative > 0
    words = ["build", str(plans["int8"]), "--precision", "fp16", "--target", "cpu"]
    kept = tmp_path / "kept.plan"
    assert main([*words, "-o", str(kept)]) == 0
    assert (read_golden(Plan.open(kept)).frames == golden.frames).all(), "without clips, the base plan's are kept"
    assert main([*words, "-o", str(kept), "--no-golden-windows"]) == 0
    assert read_golden(Plan.open(kept)) is None
    capsys.readouterr()
    assert main(["inspect", str(kept)]) == 0 and "golden windows: none" in capsys.readouterr().out


def test_they_can_be_taken_out_of_a_plan(tmp_path):
    path = tmp_path / "mine.plan"
    path.write_bytes((GOLDEN / "format1-fp32-golden-windows.plan").read_bytes())
    before, words = Plan.open(path), ["build", str(path), "--target", "cpu", "--no-golden-windows"]
    assert main(words) == 0
    after = Plan.open(path)
    assert set(before.manifest.members) - set(after.manifest.members) == {ABOUT, FRAMES}
    assert after.graph("clip", "fp32") == before.graph("clip", "fp32")
    assert main(words) == 1, "there is nothing left to do"


def test_an_export_says_that_there_are_some_and_holds_none():
    plan = Plan.open(GOLDEN / "format1-fp32-golden-windows.plan")
    folder = onnx_folder(plan, "portable")
    assert folder.about["golden_windows"] == 16 and set(folder.files) == {"frame.onnx", "clip.onnx", "README.txt"}
    assert onnx_folder(Plan.open(GOLDEN / "format1-fp32.plan"), "fp32").about["golden_windows"] == 0


def test_a_rebuild_on_other_clips_takes_its_own(plans, tmp_path):
    recipe = Recipe(precision="fp16", calib_data=(CALIBRATION + "&seed=5",), target="cpu")
    plan = build(recipe, tmp_path / "other.plan", base=plans["int8"])
    assert not np.array_equal(read_golden(plan).frames, read_golden(Plan.open(plans["int8"])).frames)


def broken(monkeypatch, kind, change=lambda logits: np.roll(logits, 1, axis=1)) -> list[str]:
    """Engines of a class give other logits from now on. Returns the list of their calls."""
    calls, run = [], kind._run

    def other(engine, inputs):
        results = run(engine, inputs)
        calls.append(engine.backend)
        return {name: change(array) if name == "logits" else array for name, array in results.items()}

    monkeypatch.setattr(kind, "_run", other)
    return calls


def test_engines_that_are_right_are_tested_once_on_a_machine(plans, monkeypatch):
    pytest.importorskip("openvino")
    calls = broken(monkeypatch, OpenVINOEngine, lambda logits: logits)
    for expected in (WINDOWS * 9, 0):  # eight frames and a decision each
        with Runtime(plans["fp32"]) as runtime:
            assert (runtime.backend, len(calls)) == ("openvino", expected)
            assert not runtime.stats()["ms"], "what was tested is not counted"
        calls.clear()
    with Runtime(plans["fp16"]), open_classifier(Plan.open(plans["int8"])):
        assert len(calls) == 2 * WINDOWS * 9
    monkeypatch.setattr(self_test, "cpu_features", lambda: "another processor")
    with Runtime(plans["fp32"]):
        assert len(calls) == 3 * WINDOWS * 9


def test_an_engine_that_decides_otherwise_is_refused_and_the_next_taken(plans, monkeypatch, said):
    calls = broken(monkeypatch, OpenVINOEngine)
    path = plans["fp32"]
    for _ in range(2):  # only what was well is remembered
        with Runtime(path) as runtime:
            assert runtime.backend == "onnxruntime"
        (sentence,) = said()
        assert sentence.startswith("running on the CPU with onnxruntime: ")
        assert f"{path} gives wrong answers on openvino here: " in sentence and "of 16 golden windows" in sentence
    with open_classifier(Plan.open(path)) as classifier:
        assert classifier.backend == "onnxruntime"
    with pytest.raises(WrongAnswers, match="wrong answers on openvino here: .*--no-self-test runs it"):
        Runtime(path, backend="openvino")
    calls.clear()
    with Runtime(path, self_test=False) as runtime:
        assert (runtime.backend, calls) == ("openvino", [])
    broken(monkeypatch, OnnxRuntimeEngine, lambda logits: logits * np.nan)
    with pytest.raises(WrongAnswers, match="nothing else here runs it: .*on openvino.*on onnxruntime.*no numbers"):
        Runtime(plans["fp16"])  # which nobody has found well before


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 0, "running on the CPU with onnxruntime"),
        (["--backend", "openvino"], 1, "wrong answers on openvino"),
        (["--backend", "openvino", "--no-self-test"], 0, ""),
    ],
)
def test_the_command_line_says_so_in_one_sentence(plans, monkeypatch, capsys, options, code, words):
    broken(monkeypatch, OpenVINOEngine)
    assert main(["bench", str(plans["fp32"]), "--decisions", "2", *options]) == code
    err = capsys.readouterr().err
    assert (words in err and "Traceback" not in err) if words else err == ""


def test_an_engine_that_fails_while_it_is_tested_is_refused(plans, monkeypatch):
    def fail(engine, inputs):
        raise RuntimeError("illegal instruction")

    monkeypatch.setattr(OpenVINOEngine, "_run", fail)
    with Runtime(plans["fp32"]) as runtime:
        assert runtime.backend == "onnxruntime"


def test_a_gpus_wrong_engine_is_built_anew_and_else_the_cpu_decides(tmp_path, machine, said):
    plan = plan_with(tmp_path, "rtx")
    here, wrong = machine(*ALL, gpu=AMPERE), ["rtx"]

    def accept(opened):
        if any(word in str(e.given) for e in opened.values() for word in wrong) and opened["frame"].backend in ALL[2:]:
            raise WrongAnswers("it answers otherwise")

    found = open_engines(plan, accept=accept)
    assert [engine.backend for engine in found.values()] == ["tensorrt"] * 2 and "built" in given(found)[0]
    assert all(engine._closed for engine in here.opened[:2]) and "it answers otherwise; building" in said()[0]
    wrong.append("built")
    assert {engine.backend for engine in open_engines(plan, accept=accept).values()} == {"openvino"}
    assert said()[-1].startswith("running on the CPU with openvino: it answers otherwise")
    with pytest.raises(WrongAnswers, match="it answers otherwise"):
        open_engines(plan, backend="tensorrt_rtx", accept=accept)

    def fail(opened):
        raise VlfError("topk is 0")

    here.builds.clear()
    with pytest.raises(VlfError, match="^topk is 0$"):  # nobody's engine is to blame
        open_engines(plan, accept=fail)
    assert here.builds == [] and here.opened[-1]._closed


def test_another_engine_is_tested_anew_on_a_gpu(tmp_path, machine, golden):
    """By its bytes, its library's version, the GPU and the way it is started."""
    engines = tuple(engine_info(stage, "rtx", "tensorrt_rtx", ("8.6", "8.9")) for stage in ("frame", "clip"))
    plan, keys = write(tmp_path / "vlf.plan", golden, engines=engines), set()
    for options in ({}, {"version": "1.2.4"}, {"gpu": replace(AMPERE, name="RTX 4090", compute_capability="8.9")}):
        here = machine(*ALL, **{"gpu": AMPERE, **options})
        for cuda_graph in (True, False):
            with Runtime(plan, cuda_graph=cuda_graph) as runtime:
                assert runtime.backend == "tensorrt_rtx"
        opened = dict(zip(("frame", "clip"), here.opened[-2:]))
        opened["clip"].identity = "other bytes"
        keys.add(self_test._key(plan, opened, 0, True))
    assert len(list((tmp_path / "cache" / "vlf_edge" / "answers").iterdir())) == 6 and len(keys) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_plans_of_other_shapes_are_tested_as_they_run(kind):
    executor, blank = kind().executor, golden_of(np.zeros((6, len(LABELS))))
    known = replace(blank, logits=executor.classify(np.stack(list(blank))))
    assert self_test.answer(executor, known) == (6, 6, "")
    assert self_test.answer(executor, replace(known, logits=-known.logits)).fault


def two_stages(phases: int = 1) -> Executor:
    manifest = toy_manifest(phases=phases)
    graphs = {stage: manifest.graph(stage, "fp32") for stage in manifest.stages}
    return open_executor(manifest, {s: FakeEngine(graph.inputs, graph.outputs) for s, graph in graphs.items()})


@pytest.mark.parametrize("phases", [1, 3])
def test_on_a_gpu_they_go_the_way_of_a_stream(gpu_machine, golden, phases):  # noqa: F811
    library, gpu, _ = gpu_machine
    manifest, pair = toy_manifest(phases=phases), gpu_engines(library)
    recognizer = Recognizer(manifest, pair)
    known = replace(golden, logits=recognizer.executor.classify(np.stack(list(golden))))
    live = gpu.live()
    assert self_test.answer(recognizer.executor, known) == (8, 8, "")
    assert gpu.live() == live, "nothing more is kept on the GPU for it"
    assert self_test.answer(recognizer.executor, replace(known, logits=np.roll(known.logits, 1, axis=1))).fault
    first = [recognizer.push(image, i * 0.25) for i, image in enumerate(golden.frames[:4])][-1]
    assert phases > 1 or (first.state == "ok" and np.array_equal(first.logits, known.logits[0]))
    for engine in pair.values():
        engine.close()
    assert gpu.live() == (0, 0, 0)


def test_interleaved_grids_change_nothing(golden):
    assert self_test.answer(two_stages(phases=3), golden) == (8, 8, "")


def test_a_slow_machine_tests_fewer_windows(golden):
    ticks = iter(range(100))
    for limit_s, windows in ((0.0, 1), (2.0, 3), (1e9, 8)):
        found = self_test.answer(two_stages(), golden, limit_s=limit_s, clock=lambda: float(next(ticks)))
        assert found == (windows, windows, "")
