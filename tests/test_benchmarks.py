"""Every benchmark runs in its smallest setting and gives the figures it promises; how good they are is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import BENCHMARKS
from onnx_toys import write_fp32_plan
from rtsp_server import RtspServer

from vlf_edge import VideoWriter, open_source
from vlf_edge.compiler.fp32_model import SHIPPED_PLAN
from vlf_edge.models.vlf import SIZES
from vlf_edge.synthetic import CLASSES

MODEL = replace(
    SIZES["vlf-tiny"], token_dim=8, spatial_heads=1, temporal_layers=1, temporal_heads=1, frames=2, height_px=8,
    width_px=8, classes=5, backbone_options={"channels": (8, 8, 16), "layers": (1, 1, 1)},
)  # fmt: skip


@pytest.fixture(scope="module")
def toy_plan(tmp_path_factory) -> Path:
    """An fp32 plan of hand-made graphs, beside the sizes of a model for PyTorch with the same input."""
    return write_fp32_plan(tmp_path_factory.mktemp("plan") / "toy.plan", MODEL.to_json(), "abcde")


def figures(script: str, *arguments: str) -> dict:
    command = [sys.executable, str(BENCHMARKS / script), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "cores" in found["machine"]["cpu"] and {"python", "numpy"} <= found["machine"]["versions"].keys()
    return found


def positive(row: dict, *names: str) -> bool:
    return all(row[name] > 0 for name in names)


def test_streaming_counts_the_work_of_every_way(toy_plan):
    found = figures("streaming.py", "--plan", str(toy_plan), "--decisions", "7")
    ways = {(row["way"], row["engine"]): row for row in found["ways"]}
    assert len(ways) == len(found["ways"]) == 6
    for (way, _), row in ways.items():
        assert positive(row, "p50_ms", "p95_ms", "times_streaming")
        assert row["frames_per_decision"] == (1 if way == "streaming" else MODEL.frames)
        assert row["clip_runs_per_decision"] == 1
        assert row["difference"] < 1e-4, "both ways decide alike"
    assert [row["engine"] for row in found["runtime_share"]] == ["openvino", "onnxruntime"]
    for row in found["runtime_share"]:
        assert positive(row, "decision_ms", "preprocess_ms", "frame_stage_ms", "clip_stage_ms") and row["share"] < 1


def test_build_cost_measures_a_whole_build(toy_plan):
    arguments = (
        "--base",
        str(toy_plan),
        "--calib-data",
        "test://motion?seconds=8&width=64&height=48",
        "--target",
        "cpu",
    )
    (build,) = figures("build_cost.py", *arguments)["builds"]
    assert positive(build, "wall_s", "cpu_s", "peak_process_bytes", "peak_sum_bytes", "goal_peak_bytes")
    assert len(build["runs"]) == 1 and "calibrate frame stage" in build["runs"][0]["steps_s"]


def test_a_failed_build_is_no_figure(toy_plan, tmp_path):
    command = [
        sys.executable,
        str(BENCHMARKS / "build_cost.py"),
        "--base",
        str(toy_plan),
        "--calib-data",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1 and done.stdout == "" and "vlf-edge: " in done.stderr


def test_threads_times_every_way_beside_neighbours(toy_plan):
    options = ("--backends", "onnxruntime", "--neighbours", "0", "1", "--rounds", "1", "--decisions", "2")
    rows = figures("threads.py", "--plan", str(toy_plan), *options)["rows"]
    assert len(rows) == 8 and {row["neighbours"] for row in rows} == {0, 1}
    for row in rows:
        assert positive(row, "open_s", "open_worst_s", "p50_ms", "p50_ratio", "worst_ms")
        assert row["p50_ratio"] == 1 or row["way"] != "as shipped"


def test_startup_opens_and_decides(toy_plan):
    found = figures("startup.py", "--plan", str(toy_plan), "--backends", "onnxruntime", "--runs", "1")
    assert positive(found["import"], "import_s", "goal_s") and positive(found["help"], "help_s", "python_alone_s")
    assert found["help"]["heavy_modules"] == []
    assert [(row["backend"], row["how"]) for row in found["first_decision"]] == [
        ("onnxruntime", "push"),
        ("onnxruntime", "classify"),
    ]
    for row in found["first_decision"]:
        assert positive(row, "import_s", "open_s", "first_decision_s", "total_s", "goal_s")


@pytest.fixture(scope="module")
def gestures(tmp_path_factory) -> Path:
    """mine/yes, mine/no and nothing: two clips of each, of two people."""
    folder = tmp_path_factory.mktemp("gestures")
    for number, (of, motion) in enumerate(
        [("mine/yes", "nod"), ("mine/no", "shake"), ("nothing", "still"), ("nothing", "left")]
    ):
        (folder / of).mkdir(parents=True, exist_ok=True)
        for person in (1, 2):
            clip = f"test://motion?label={motion}&seed={person}&seconds=2.5&fps=8&width=64&height=64"
            with (
                open_source(clip) as source,
                VideoWriter(str(folder / of / f"seq{person}_{number}.avi"), fps=8) as writer,
            ):
                for frame in source:
                    writer.write(frame.image)
    return folder


def test_enrol_draws_by_people_and_judges_labels_unknown_and_events(gestures):
    options = ("--none", str(gestures / "nothing"), "--ways", "2", "--shots", "1", "--draws", "2", "--heads")
    found = figures("enrol.py", str(SHIPPED_PLAN), str(gestures / "mine"), *options)
    assert found["clips"] == 8 and found["precision"] == "fp32"
    first, *others = found["rows"]
    assert first["head"] == "discriminant" and {row["head"] for row in others} == {
        "nearest mean", "cosine", "ridge", "logistic regression"
    }  # fmt: skip
    shares = ("right", "right_with_unknown", "missed_clips", "accepted_windows", "auroc", "event_missed", "event_wrong")
    assert all(0 <= first[name][0] <= 1 for name in shares)
    assert first["accepted_per_hour"][0] >= 0 and first["false_events_per_hour"][0] >= 0


def test_soak_times_outages_of_a_real_server():
    pytest.importorskip("av")
    with RtspServer():  # skips where there is no server
        pass
    found = figures("soak.py", "--rounds", "1", "--minutes", "0.05", "--streams", "2", "--phases", "1")
    rounds, soak = found["rounds"], found["soak"]
    assert rounds["resumed_s"]["killed"]["n"] == 2 and positive(rounds["resumed_s"]["killed"], "p50", "p95", "max")
    assert rounds["mixed_windows"] == 0 < rounds["windows"] and rounds["counts_add_up"] and soak["counts_add_up"]
    assert rounds["threads_left"] <= 0 and rounds["descriptors_left"] <= 0
    assert positive(soak, "memory_mb", "decisions_per_s") and {"growth_mb_per_hour", "reconnects"} <= soak.keys()


def test_events_judges_every_kind_of_scene(tmp_path):
    plan = write_fp32_plan(tmp_path / "toy.plan", MODEL.to_json(), CLASSES)
    options = ("--scenes", "2", "--hours", "0.01", "--thresholds", "0.1", "--backend", "onnxruntime")
    found = figures("events.py", str(plan), *options)
    rows = found["rows"]
    assert [(row["kind"], row["threshold"], row["actions"]) for row in rows] == [
        ("clips, ends held", 0.7, 2), ("clips, ends held", 0.1, 2), ("scenes with rests", 0.7, 2),
        ("scenes with rests", 0.1, 2), ("cuts", 0.7, 8), ("cuts", 0.1, 8), ("still scenes", 0.7, 0),
        ("still scenes", 0.1, 0),
    ]  # fmt: skip
    assert all(positive(row, "streams", "hours") for row in rows) and found["settings"]["threshold"] == 0.7
