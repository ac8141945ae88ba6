"""What a build measures, what its gate lets through, and what it says about it: on toy weights and rendered clips."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

from vlf_edge import Plan, WeightsError, shipped
from vlf_edge.cli import main
from vlf_edge.compiler import Recipe, build, load_recipe, recipe
from vlf_edge.compiler.accuracy import candidate, gate, validate
from vlf_edge.compiler.calibration import windows as calibrate
from vlf_edge.compiler.graph import parse
from vlf_edge.errors import AccuracyError
from vlf_edge.synthetic import CLASSES


@pytest.fixture(scope="module")
def toy(toy_models):
    """An fp32 plan of toy weights from a file: the gate takes them for trained ones. Labels are those of motion."""
    return Plan.open(toy_models(CLASSES)[1])


_RENDERED = {}


@pytest.fixture(autouse=True)
def clips_are_rendered_once(monkeypatch):
    """Most builds here ask for the same ones."""

    def collect(*request, progress=None, **options):
        key = repr((request, options, calibrate.MAX_HELD_OUT))
        if key not in _RENDERED:
            _RENDERED[key] = calibrate.collect_clips(*request, **options)
        return _RENDERED[key]

    monkeypatch.setattr(validate, "collect_clips", collect)


@pytest.fixture
def few(monkeypatch):
    """Fewer held-out windows: three of every class. That toy weights guess is no matter where this is used, nor
    that they guess otherwise in int8."""
    monkeypatch.setattr(gate, "MIN_AGREEMENT", 0.01)
    monkeypatch.setattr(calibrate, "MAX_HELD_OUT", 39)
    monkeypatch.setattr(validate, "check_reference", lambda reference: None)


def int8_of(toy, tmp_path, **changes):
    settings = {"precision": "int8", "calib_data": ("motion",), "calib_samples": 26, "target": "cpu", "max_drop": 100.0}
    return build(Recipe(**{**settings, **changes}), tmp_path / "my.plan", base=toy.path, cache_dir=tmp_path)


@pytest.mark.slow
def test_without_clips_a_build_is_measured_on_a_rendered_scene_and_against_torch(toy):
    fidelity = toy.report["fidelity"]
    ways = ["fp32 torch", "fp32 onnx", "fp32 openvino", "fp32 onnxruntime"]
    assert [row["way"] for row in fidelity["rows"]] == ways
    assert (fidelity["on"], fidelity["windows"], fidelity["labelled"]) == ("a rendered scene", 32, 0)
    assert all(row["end_to_end"]["relative"] < 1e-4 for row in fidelity["rows"] if row["way"] != "fp32 onnx")
    assert "none" in toy.report["gate"]


def test_labels_that_are_known_give_accuracy_and_coverage(toy, tmp_path, few):
    plan = int8_of(toy, tmp_path)
    fidelity, gate = plan.report["fidelity"], plan.report["gate"]
    assert fidelity["labelled"] == fidelity["windows"] == 39
    accuracies = {row["way"]: row["end_to_end"]["accuracy"] for row in fidelity["rows"]}
    assert list(accuracies) == ["fp32 onnx", "int8 onnx", "int8 openvino", "int8 onnxruntime"]
    # 13 classes, each with three windows to measure on: every accuracy is a number of 39ths.
    assert all(abs(39 * share - round(39 * share)) < 1e-3 for share in accuracies.values())
    assert gate["measure"] == "accuracy" and gate["passed"] and not gate["restored"]
    worst = min(accuracies[way] for way in accuracies if way != "fp32 onnx")
    assert gate["drop_points"] == pytest.approx(100 * (accuracies["fp32 onnx"] - worst), abs=0.01)
    assert plan.report["calibration"]["coverage"] == {label: [2, 3] for label in CLASSES}


def test_a_plan_that_falls_short_is_refused_and_its_report_kept(toy, tmp_path, few, capsys):
    words = ["build", str(toy.path), "--precision", "int8", "--calib-data", "motion", "--calib-samples", "26"]
    words += ["--max-drop", "-100", "--target", "cpu", "-o", str(tmp_path / "my.plan")]
    assert main(words) == 3
    out, err = capsys.readouterr()
    said = f"nodes back in float: .* no plan was written, the report is in {tmp_path}/my.plan.report.json: .* fp16\n$"
    assert out == "" and re.search(f"vlf-edge: int8 falls short of its gate even with .* {said}", err), err
    assert not (tmp_path / "my.plan").exists()
    kept = tmp_path / "my.plan.report.json"
    report = json.loads(kept.read_text())
    assert not report["gate"]["passed"] and report["gate"]["max_drop_points"] == -100 and report["gate"]["restored"]
    assert report["fidelity"]["rows"] and report["calibration"]["frame"]["clipped"]
    int8_of(toy, tmp_path)
    assert not kept.exists(), "a plan that was written makes it good"


def test_what_guesses_passes_no_gate(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calibrate, "MAX_HELD_OUT", 39)
    with pytest.raises(AccuracyError, match="fp32 itself decides only .* of 39 windows .* guessing among 13 classes"):
        int8_of(toy, tmp_path)
    monkeypatch.setattr(calibrate, "MAX_HELD_OUT", 26)
    with pytest.raises(AccuracyError, match="too few windows to judge by: 26 held out, .* 3 missing"):
        int8_of(toy, tmp_path)
    assert not (tmp_path / "my.plan").exists()


def test_nan_in_fp32_is_no_plan_and_leaves_the_old_one(toy, tmp_path):
    members = {graph.member: toy.read(graph.member) for graph in toy.manifest.graphs}
    broken = parse(members["clip.fp32.onnx"])
    last = next(node for node in broken.graph.node if "logits" in node.output)
    for tensor in broken.graph.initializer:
        if tensor.name in last.input:
            huge = np.full(tensor.dims, 3e38, np.float32)  # finite, but not the logits
            tensor.CopyFrom(numpy_helper.from_array(huge, tensor.name))
    members["clip.fp32.onnx"] = broken.SerializeToString()
    base = Plan.write(tmp_path / "nan.plan", toy.manifest, members, {}).path
    (tmp_path / "my.plan").write_bytes(b"the old one")
    with pytest.raises(WeightsError, match="fp32 graphs give NaN or infinity for 32 of 32 windows"):
        build(Recipe(precision="fp16", target="cpu"), tmp_path / "my.plan", base=base)
    assert (tmp_path / "my.plan").read_bytes() == b"the old one"


def test_fp16_is_measured_on_all_clips_since_none_calibrates(toy, tmp_path, few):
    fidelity = int8_of(toy, tmp_path, precision="fp16").report["fidelity"]
    assert fidelity["windows"] == 26 + 39 and fidelity["held_out"]


def test_engines_that_did_not_run_here_are_said_not_to_be_proven(monkeypatch):
    from machines import AMPERE, TURING, engine_info

    from vlf_edge.commands.report import accuracy_rows

    infos = [engine_info("clip", "rtx", "tensorrt_rtx", ("8.6",)), engine_info("clip", "old", "tensorrt", ("8.6",))]
    rows = [{"way": "int8 tensorrt_rtx", "end_to_end": {}}, {"way": "int8 tensorrt", "failed": "no memory"}]
    monkeypatch.setattr(validate.cuda, "gpu", lambda: AMPERE)
    told = validate.measured_engines(infos, rows)
    assert told == {"rtx": {"measured": True}, "old": {"measured": False, "why": "no memory"}}
    assert validate.measured_engines(infos, [])["rtx"]["why"] == "tensorrt_rtx does not run here"
    monkeypatch.setattr(validate.cuda, "gpu", lambda: TURING)
    assert validate.measured_engines(infos, rows)["rtx"]["why"] == "it is not for the GPU here, RTX 2060"
    monkeypatch.setattr(validate.cuda, "gpu", lambda: None)
    assert validate.measured_engines(infos, rows)["rtx"]["why"] == "no GPU here to run it"
    fidelity = {"held_out": True, "on": "clips", "windows": 50, "labelled": 0, "rows": rows}
    shown = accuracy_rows({"fidelity": fidelity, "gate": {"none": "none"}, "engines": told})
    assert ("unproven", "engine old: no memory") in shown and not any("engine rtx" in text for _, text in shown)


def test_an_engine_that_is_added_is_not_covered_by_the_old_report(toy, tmp_path, monkeypatch):
    from machines import engine_info

    from vlf_edge.compiler import builder

    built = [(engine_info(stage, "rtx", "tensorrt_rtx", ("8.6",)), b"engine") for stage in ("frame", "clip")]
    monkeypatch.setattr(builder, "resolve_targets", lambda names: ["rtx"])
    monkeypatch.setattr(builder, "_engines", lambda *args: built)
    plan = build(Recipe(target="rtx"), tmp_path / "my.plan", base=toy.path)
    assert plan.report["fidelity"] == toy.report["fidelity"]
    assert plan.report["engines"]["rtx"]["measured"] is False and "eval" in plan.report["engines"]["rtx"]["why"]


def test_the_weights_that_ship_are_the_default_and_bring_their_clips(toy, tmp_path, few, monkeypatch):
    monkeypatch.setitem(shipped.PLANS, "vlf-tiny", toy.path)
    request = Recipe(precision="int8", target="cpu", calib_samples=26, max_drop=100.0)
    first = build(request, tmp_path / "a.plan", cache_dir=tmp_path)
    assert first.manifest.weights == toy.manifest.weights and first.manifest.labels == CLASSES
    assert all(clip.startswith("test://motion?label=") for clip in first.manifest.quantization["clips"])
    # Any plan of these weights knows their clips too; model names what ships and changes nothing.
    again = build(request, tmp_path / "b.plan", base=first.path, cache_dir=tmp_path)
    named = build(replace(request, model="vlf-tiny"), tmp_path / "c.plan", cache_dir=tmp_path)
    assert first.digest == again.digest == named.digest
    with pytest.raises(WeightsError, match="only vlf-tiny comes with trained weights; for vlf give --weights"):
        build(replace(request, model="vlf"), tmp_path / "d.plan")


@pytest.mark.parametrize("ratio, kept", [(0.5, "int8"), (0.99, "fp16")])
def test_best_keeps_the_faster_and_reports_both(toy, tmp_path, few, monkeypatch, ratio, kept):
    monkeypatch.setattr(validate, "_time_ratio", lambda *candidates: ("openvino", ratio))
    plan = int8_of(toy, tmp_path, precision="best")
    best = plan.report["best"]
    assert plan.manifest.precision == kept == best["kept"] and best["int8_to_fp16_time"] == ratio
    assert set(best["gates"]) == {"fp16", "int8"} and all(gate["passed"] for gate in best["gates"].values())
    assert best["why"] == f"a decision in int8 takes {ratio:g} of its time in fp16, timed on openvino"
    assert {row["way"].split()[0] for row in plan.report["fidelity"]["rows"]} == {"fp32", "fp16", "int8"}
    assert bool(plan.manifest.quantization) == (kept == "int8") == ("calibration" in plan.report)


def test_where_neither_passes_fp32_is_proposed(toy, tmp_path, few, monkeypatch):
    monkeypatch.setattr(candidate, "MOST_RESTORED", 0.0)
    with pytest.raises(AccuracyError, match="int8 falls short of its gate: .* or build --precision fp32$"):
        int8_of(toy, tmp_path, precision="best", max_drop=-100.0)
    assert json.loads((tmp_path / "my.plan.report.json").read_text())["best"]["why"] == "neither passes the gate"


@pytest.mark.slow
def test_best_times_both_here_and_keeps_what_passes(toy, tmp_path, few, monkeypatch):
    best = int8_of(toy, tmp_path, precision="best").report["best"]
    assert best["int8_to_fp16_time"] > 0 and "timed on openvino" in best["why"]
    real = validate.CandidateBuilder.build_int8

    def strict(self, int8):
        return real(replace(self, max_drop=-100.0), int8)

    monkeypatch.setattr(validate.CandidateBuilder, "build_int8", strict)
    plan = int8_of(toy, tmp_path, precision="best")
    assert plan.manifest.precision == "fp16" and "int8 falls short of the gate" in plan.report["best"]["why"]


def test_the_report_is_a_table_with_times_that_the_plan_does_not_hold(toy, tmp_path, few, capsys):
    int8_of(toy, tmp_path)
    words = ["build", str(toy.path), "--precision", "int8", "--calib-data", "motion", "--calib-samples", "26"]
    words += ["--max-drop", "100", "--target", "cpu", "-o", str(tmp_path / "cli.plan")]
    assert main(words) == 0
    told = capsys.readouterr().out
    for part in (
        "coverage    13 of 13 classes calibrate on 2 windows each and are measured on 3",
        "clipped     at most 0.0",
        "on 39 held-out windows, 39 of known class",
        "gate        passed: accuracy drops by ",
    ):
        assert part in told
    table = told[told.index("accuracy    on") : told.index("gate ")].splitlines()[1:]
    assert all(heading in table[0] for heading in ("accuracy", "same top-1", "end to end", "cosine", "frame ms"))
    assert [line.split()[:2] for line in table[1:]] == [
        ["fp32", "onnx"], ["int8", "onnx"], ["int8", "openvino"], ["int8", "onnxruntime"],
    ]  # fmt: skip
    assert len({len(line) for line in table if line.split()[:2] != ["int8", "onnx"]}) == 1, "aligned"
    assert main([*words, "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert set(out["ms"]) == {"fp32 onnx", "int8 openvino", "int8 onnxruntime"}
    assert all(taken > 0 for stages in out["ms"].values() for taken in stages.values())
    assert "ms" not in json.dumps(out["report"]).replace("items", "")
    assert Plan.open(tmp_path / "cli.plan").digest == Plan.open(tmp_path / "my.plan").digest


def test_what_the_gate_restored_is_told():
    from vlf_edge.commands.report import accuracy_rows, hygiene_rows

    verdict = {"measure": "agreement", "windows": 200, "drop_points": 7.5, "way": "int8 openvino"}
    verdict |= {"max_drop_points": 1.0, "passed": False}
    restored = [{"stage": "frame", "node": "f.stem/Conv", "gain": 0.0312}]
    nan = {"relative": None, "max_abs": None, "cosine_min": None, "top1_agreement": None, "nonfinite": 0.5}
    report = {
        "fidelity": {
            "held_out": True, "on": "clips", "windows": 200, "labelled": 0,
            "rows": [{"way": "fp32"}, {"way": "fp16 onnx", "end_to_end": nan}, {"way": "x", "failed": "no memory"}],
        },
        "gate": {**verdict, "passed": True, "drop_points": 0.5, "restored": restored, "before": verdict},
        "best": {"kept": "int8", "why": "it is faster"},
        "calibration": {"coverage": {"left": [3, 1], "right": [0, 2]}, "frame": {"clipped": {"a": 0.001, "b": 0.02}}},
    }  # fmt: skip
    text = "\n".join(" ".join(row) for row in (*hygiene_rows(report), *accuracy_rows(report)))
    for part in (
        "1 of 2 classes calibrate on 0 to 3 windows each and are measured on 1 to 2; without: right",
        "at most 2.000% of the values of 2 tensors: frame b 2.000%, frame a 0.100%",
        "NaN",
        "x          no memory",
        "all nodes in int8: 7.5 % of the decisions differ on int8 openvino",
        "frame f.stem/Conv, which alone lowers the logits' relative error by 0.031",
        "best int8: it is faster",
    ):
        assert part in text, text


def test_every_recipe_is_found_from_an_installed_package_too(tmp_path, monkeypatch):
    """An installed package holds the folders that a checkout has beside it."""
    monkeypatch.chdir(tmp_path)
    assert load_recipe("calibration/motion.toml", "engines/cpu.toml").calib_data == ("motion",)
    assert load_recipe("calibration/own-camera.toml").calib_data == ("calibration/clips",), "beside the name given"
    package = tmp_path / "site" / "vlf_edge"
    (package / "compiler").mkdir(parents=True)
    (package / "calibration").mkdir()
    (package / "calibration" / "motion.toml").write_text("calib_data = ['mine']")
    monkeypatch.setattr(recipe, "__file__", str(package / "compiler" / "recipe.py"))
    assert recipe.packaged_recipe("calibration/motion.toml") == package / "calibration" / "motion.toml"
    for name in ("calibration/none.toml", "motion.toml", "../calibration/motion.toml", "secrets/motion.toml"):
        assert recipe.packaged_recipe(name) is None
