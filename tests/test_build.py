"""Builds, end to end, with the real exporter, quantiser and builders."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CALIBRATION
from test_front_door import run_without

from vlf_edge import CalibrationError, Plan, PlanError, PlanMismatch, Runtime, WeightsError, shipped
from vlf_edge.cli import main
from vlf_edge.compiler import Recipe, build
from vlf_edge.models.weights import load_weights

INT8 = Recipe(precision="int8", calib_data=(CALIBRATION,), calib_samples=32, target="cpu")


def test_plans_hold_what_they_say(plans):
    for precision, path in plans.items():
        plan = Plan.open(path)
        assert (plan.manifest.precision, plan.manifest.stages) == (precision, ("frame", "clip"))
        assert plan.manifest.random_weights and len(plan.manifest.labels) == 12
        assert plan.manifest.graph("frame", "portable").inputs[0].dtype == "uint8"
        assert plan.manifest.graph("clip", "typed").outputs[0].dtype == "float32"
        tokens, window = (
            plan.manifest.graph("frame", "typed").outputs[0],
            plan.manifest.graph("clip", "typed").inputs[0],
        )
        assert tokens.dtype == window.dtype == ("float32" if precision == "fp32" else "float16")
        assert window.shape == ("N", 8, *tokens.shape[1:])
        for member in plan.manifest.members:
            plan.read(member)
    graphs, golden = {"frame.fp32.onnx", "clip.fp32.onnx"}, {"golden.json", "golden.frames"}
    assert set(Plan.open(plans["fp32"]).manifest.members) == {*graphs, *golden, "report.json"}


def test_int8_says_how_it_was_calibrated_and_what_it_costs(plans):
    plan = Plan.open(plans["int8"])
    q = plan.manifest.quantization
    assert (q["method"], q["windows"], q["clips"]) == ("percentile", 32, [CALIBRATION])
    assert q["int8_nodes"]["frame"] > 10 and q["int8_nodes"]["clip"] == 10 and len(q["sha256"]) == 64
    # Two attention products a layer stay float, and nothing else does.
    assert [len(kept) for kept in (q["kept_float"]["frame"], q["kept_float"]["clip"])] == [2, 4]
    fidelity = plan.report["fidelity"]
    assert fidelity["held_out"] and fidelity["windows"] >= 4 and fidelity["on"] == "clips"
    assert [row["way"] for row in fidelity["rows"]] == ["fp32 onnx", "int8 onnx", "int8 openvino", "int8 onnxruntime"]
    for row in fidelity["rows"][1:]:
        assert 0 < row["end_to_end"]["relative"] < 0.1 and row["end_to_end"]["cosine_min"] > 0.99
        assert set(row) == {"way", "frame", "clip", "end_to_end"}
    assert plan.report["gate"] == {"none": "random weights: what they decide means nothing"}
    assert plan.report["calibration"]["coverage"] == {}
    clipped = plan.report["calibration"]["frame"]["clipped"]
    assert clipped and all(0 <= share < 0.01 for share in clipped.values())


def test_same_recipe_same_plan_in_another_process_without_torch(plans, tmp_path):
    words = ["build", str(plans["fp32"]), "--precision", "int8", "--calib-data", CALIBRATION, "--calib-samples", "32"]
    words += ["--target", "cpu", "-o", str(tmp_path / "again.plan")]
    home = f"import os, sys\nos.environ['HOME'] = {str(tmp_path)!r}\n"
    code = f"{home}from vlf_edge.cli import main\nsys.exit(main({words!r}))"
    done = run_without(("torch", "timm", "onnxscript", "tensorrt", "tensorrt_rtx"), code)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.plan").read_bytes() == plans["int8"].read_bytes()


def test_running_a_plan_needs_neither_torch_nor_onnx(plans):
    heavy = ("torch", "timm", "onnx", "onnxruntime", "onnxscript", "safetensors", "tensorrt", "tensorrt_rtx")
    words = ["run", str(plans["int8"]), "test://motion?seconds=3&width=160&height=120", "--json"]
    done = run_without(heavy, f"import sys\nfrom vlf_edge.cli import main\nsys.exit(main({words!r}))")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["state"] for line in lines] == ["warming"] * 7 + ["ok"] * 5


@pytest.mark.slow
def test_trained_weights_of_a_model_wider_than_high_become_a_plan(toy_models):
    labels = ("right", "left", "up", "down")
    weights, path = toy_models(labels)
    model, plan = load_weights(weights).model.eval(), Plan.open(path)
    assert (plan.manifest.labels, plan.manifest.sampling.span_s) == (labels, 1.5)
    assert plan.manifest.weights["origin"] == "file" and not plan.manifest.random_weights
    clip = np.random.default_rng(0).integers(0, 256, (3, 32, 64, 3), np.uint8)
    with torch.no_grad():
        expected = model(torch.from_numpy(clip)[None])[0].numpy()
    for backend in ("openvino", "onnxruntime"):
        with Runtime(plan, backend=backend) as runtime:
            found = runtime.classify(list(np.pad(clip, ((0, 0), (16, 16), (0, 0), (0, 0)))))
            assert np.linalg.norm(found.logits - expected) < 1e-4 * np.linalg.norm(expected)


def test_ranges_are_kept_between_builds(plans, tmp_path, monkeypatch):
    import vlf_edge.compiler.quantization.ranges as ranges

    first = build(INT8, tmp_path / "a.plan", base=plans["fp32"], cache_dir=tmp_path / "cache")
    monkeypatch.setattr(ranges, "collect_ranges", lambda *args, **options: pytest.fail("calibrated again"))
    second = build(INT8, tmp_path / "b.plan", base=plans["fp32"], cache_dir=tmp_path / "cache")
    assert first.digest == second.digest


def test_progress_is_reported(plans, tmp_path):
    seen = []
    build(INT8, tmp_path / "a.plan", base=plans["fp32"], cache_dir=tmp_path, progress=lambda *step: seen.append(step))
    finished = [what for what, done, total in seen if done == total]
    assert finished == ["read clips", "calibrate frame stage", "calibrate clip stage", "measure int8"]


def test_other_methods_and_spans(plans, tmp_path):
    for method in ("minmax", "entropy"):
        recipe = Recipe(**{**INT8.__dict__, "calib_method": method, "span_s": 1.0})
        plan = build(recipe, tmp_path / "m.plan", base=plans["fp32"], cache_dir=tmp_path / "cache")
        assert plan.manifest.quantization["method"] == method and plan.manifest.sampling.span_s == 1.0
        assert plan.report["fidelity"]["rows"][1]["end_to_end"]["relative"] < 0.1


def test_refusals_come_before_any_work_and_lose_nothing(plans, tmp_path, toy_plan, monkeypatch):
    monkeypatch.setitem(shipped.PLANS, "vlf-tiny", tmp_path / "none" / "vlf-tiny.plan")
    before = toy_plan.path.read_bytes()
    cases = [
        (Recipe(), None, WeightsError, "give --weights FILE .* or a BASE.plan, or say --random-weights"),
        (Recipe(weights="w.safetensors", random_weights=True), None, WeightsError, "exclude each other"),
        (Recipe(weights="none.safetensors"), None, WeightsError, "none.safetensors"),
        (Recipe(random_weights=True), plans["fp32"], WeightsError, "already holds weights"),
        (Recipe(precision="int8", random_weights=True), None, CalibrationError, "needs real clips .*--calib-data"),
        (Recipe(precision="int8"), plans["fp32"], CalibrationError, "needs real clips"),
        (Recipe(precision="best"), plans["fp32"], CalibrationError, "needs real clips"),
        (Recipe(model="vlf"), plans["fp32"], WeightsError, "model and labels come with the weights"),
        (Recipe(labels=("a", "b")), None, WeightsError, "model and labels come with the weights"),
        (Recipe(target="cpu"), plans["fp32"], PlanMismatch, "nothing to do"),
        (Recipe(precision="int8"), tmp_path / "none.plan", PlanError, "no plan at"),
    ]
    for recipe, base, error, message in cases:
        with pytest.raises(error, match=message):
            build(recipe, toy_plan.path, base=base)
    assert toy_plan.path.read_bytes() == before


def test_another_plan_does_not_take_the_place_of_its_base_unasked(plans, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = Path("vlf.plan")
    base.write_bytes(plans["int8"].read_bytes())
    with pytest.raises(PlanMismatch, match="vlf.plan is int8, and this makes another plan of it.*--output"):
        build(Recipe(precision="fp16", target="cpu"), base="vlf.plan")
    assert base.read_bytes() == plans["int8"].read_bytes()
    assert build(Recipe(precision="fp16", target="cpu"), "other.plan", base="vlf.plan").manifest.precision == "fp16"


@pytest.mark.parametrize(
    "missing, words, message",
    [
        (
            ("torch", "timm"),
            "build --random-weights",
            "a build from weights needs torch, timm.*vlf_edge\\[models\\]'; without PyTorch",
        ),
        (
            ("onnx",),
            "build {plan} --precision fp16",
            "a build needs onnx, not installed here: pip install 'vlf_edge\\[build\\]'",
        ),
        (
            ("tomllib", "tomli"),  # Python 3.10 without the extra
            "build {plan} --precision int8 --recipe calibration/motion.toml",
            "TOML files need tomli on Python 3.10, not installed here: pip install 'tomli>=2'",
        ),
        (("openvino", "onnxruntime"), "run {plan} test://motion", "install one with: pip install 'vlf_edge\\[cpu\\]'"),
        (("openvino",), "run {plan} test://motion --backend openvino", "openvino is not installed.*vlf_edge\\[cpu\\]"),
        (("tensorrt_rtx",), "build {plan} --target rtx", "tensorrt_rtx is not installed.*vlf_edge\\[rtx\\]"),
        (("cv2",), "run {plan} test://motion", "OpenCV is not installed.*vlf_edge\\[opencv\\]"),
    ],
)
def test_a_missing_library_is_one_line_with_its_install_command(plans, missing, words, message):
    words = words.format(plan=plans["fp32"]).split()
    done = run_without(missing, f"import sys\nfrom vlf_edge.cli import main\nsys.exit(main({words!r}))")
    assert done.returncode == 1 and re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("vlf-edge: ") == 1


@pytest.mark.slow
def test_engines_are_added_to_a_plan_in_place(plans, tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path / "my.plan"
    path.write_bytes(plans["int8"].read_bytes())
    assert main(["build", str(path), "--target", "rtx"]) == 0
    plan = Plan.open(path)
    assert [(e.stage, e.target, e.compute_capabilities) for e in plan.manifest.engines] == [
        (stage, "rtx", ("8.0", "8.6", "8.9", "12.0", "12.1+")) for stage in ("frame", "clip")
    ]
    assert plan.read("frame.rtx.engine")[:4] == b"vtrt" and plan.graph("frame", "fp32")
    assert "rtx: tensorrt_rtx" in capsys.readouterr().out
    first = path.read_bytes()
    assert main(["build", str(path), "--target", "rtx"]) == 0
    assert path.read_bytes() == first, "building again replaces the engine by the same one"
    # A recipe also names a precision: where the plan has it already, nothing is calibrated again.
    assert main(["build", str(path), "--target", "rtx", "--precision", "int8"]) == 0
    assert path.read_bytes() == first


@pytest.mark.parametrize("sm", ["75", "89"])
def test_rtx_engines_build_for_one_gpu_alone(plans, sm):
    """Of the builder's two kinds of target. For all GPUs taken together, in all precisions: test_rtx_models.py"""
    pytest.importorskip("tensorrt_rtx")
    from vlf_edge.compiler.engines import build_engines, resolve_targets

    plan = Plan.open(plans["int8"])
    typed = {stage: plan.graph(stage, "typed") for stage in plan.manifest.stages}
    engines = build_engines(typed, resolve_targets(f"rtx:sm{sm}"))
    assert [info.stage for info, _ in engines] == ["frame", "clip"]
    assert all(len(data) > 10_000 and data[:4] == b"vtrt" for _, data in engines)


def test_module_entry_point():
    done = subprocess.run([sys.executable, "-m", "vlf_edge", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("vlf-edge ")
