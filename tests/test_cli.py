import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from patient import VLF_EDGE

from vlf_edge import Plan, shipped
from vlf_edge.cli import main

SOURCE = "test://motion?seconds=4&width=160&height=120"
ROOT = Path(__file__).resolve().parents[1]


def test_run_prints_decisions_and_a_summary(plans, capsys):
    assert main(["run", str(plans["int8"]), SOURCE]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 16 and all("warming" in line for line in lines[:7])
    assert all("class" in line and "[random weights: labels mean nothing]" in line for line in lines[7:])
    assert "9 decisions: class" in err and "120 frames captured = 16 encoded + 104 between two instants" in err
    assert "random weights" in err and "ms p50 (p95): clip stage" in err
    assert "ms from capture to decision: p50 " in err and " s of CPU time" in err


def test_run_json_save_and_phases(plans, tmp_path, capsys):
    video = tmp_path / "out.mp4"
    words = ["run", str(plans["int8"]), SOURCE, "--json", "--save", str(video), "--phases", "2", "--topk", "3"]
    assert main([*words, "--backend", "onnxruntime"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 32 and [line["state"] for line in lines].count("ok") == 18
    assert all(len(line["topk"]) == 3 for line in lines if line["state"] == "ok")
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == 120


def test_inspect_tells_what_weights_were_trained_on(capsys):
    assert main(["inspect", str(ROOT / "vlf_edge" / "weights" / "vlf-tiny.plan")]) == 0
    assert re.search(r"^weights +trained on 'motion', \d+ clips, sha256 [0-9a-f]{16}$", capsys.readouterr().out, re.M)
    assert main(["inspect", str(ROOT / "vlf_edge" / "weights" / "vlf-tiny-acts.plan")]) == 0
    assert "trained on 'motion', 400000 clips, 0.6 of them of made-up acts, sha256" in capsys.readouterr().out


def test_inspect_tells_everything(plans, capsys):
    assert main(["inspect", str(plans["int8"]), "--verify"]) == 0
    text = capsys.readouterr().out
    for part in (
        "vlf-tiny, backbone resnet10t",
        "RANDOM WEIGHTS",
        "12: class 0",
        "64x64 px",
        "8 frames over 2 s, one every 0.25 s",
        "int8 (",
        "percentile 99.99 on 32 windows",
        "in float    4 nodes of the clip stage",
        "held-out windows",
        "end to end",
        "any CPU, from clip.int8.onnx, frame.int8.onnx",
        "verified    all",
    ):
        assert part in text
    assert main(["inspect", str(plans["int8"]), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["digest"] == Plan.open(plans["int8"]).digest and told["report"]["fidelity"]["windows"] > 0


def test_bench_figures_add_up(plans, capsys):
    words = ["bench", str(plans["int8"]), "--decisions", "10", "--size", "160x120"]
    assert main([*words, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["ms"]["decision"]["n"] == figures["ms"]["frame_stage"]["n"] == figures["ms"]["clip_stage"]["n"] == 10
    parts = sum(figures["ms"][kind]["mean"] for kind in ("preprocess", "frame_stage", "clip_stage"))
    assert 0 < parts <= figures["ms"]["decision"]["mean"]
    assert main(words) == 0
    assert "decisions a second" in capsys.readouterr().out


def test_capture_makes_clips_that_calibrate(plans, tmp_path, capsys):
    folder = tmp_path / "clips"
    words = [
        "capture",
        "test://motion?seconds=20&width=160&height=120",
        "-o",
        str(folder),
        "--clips",
        "3",
        "--seconds",
        "4",
    ]
    assert main(words) == 0
    assert capsys.readouterr().out.split() == [str(folder / f"clip_{i:04d}.avi") for i in range(3)]
    assert (
        main(["capture", "test://motion?seconds=9&width=160&height=120&seed=5", "-o", str(folder), "--clips", "5"]) == 0
    )
    assert "ended after 2 of 5 clips" in capsys.readouterr().err
    assert sorted(p.name for p in folder.iterdir()) == [f"clip_{i:04d}.avi" for i in range(5)]
    output = tmp_path / "mine.plan"
    build = ["build", str(plans["fp32"]), "--precision", "int8", "--calib-data", str(folder), "--target", "cpu"]
    assert main([*build, "-o", str(output)]) == 0
    assert Plan.open(output).manifest.quantization["clips"] == [f"clip_{i:04d}.avi" for i in range(5)]


def test_capture_never_overwrites(tmp_path):
    source = "test://motion?seconds=9&width=64&height=48"
    for _ in range(2):
        assert main(["capture", source, "-o", str(tmp_path), "--clips", "2", "--seconds", "1"]) == 0
        (tmp_path / "clip_0000.avi").unlink(missing_ok=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"clip_{i:04d}.avi" for i in (1, 2, 3)]


@pytest.mark.parametrize(
    "words, code, message",
    [
        (["run", "none.plan", SOURCE], 1, "no plan at none.plan"),
        (["run", "{plan}", "none.mp4"], 1, "no file, folder or camera at none.mp4"),
        (["run", "{plan}", "97", "--max-retries", "0"], 4, "no camera at /dev/video97"),
        (["run", "{plan}", "test://["], 1, "no test pattern 'test://['; available: test://motion"),
        (["run", "{plan}", SOURCE, "--backend", "quantum"], 1, "no backend 'quantum'"),
        (["build", "--precision", "int8", "--random-weights"], 1, "INT8 needs real clips"),
        (["build", "--precision", "int8", "--model", "vlf"], 1, "no weights ship with this version"),
        (["build", "--random-weights", "--labels", "{empty}"], 1, "empty.txt holds no labels"),
        (["build", "--random-weights", "--labels", "none.txt"], 1, "cannot read the labels none.txt"),
        (
            ["build", "--calib-data", "clips", "base.plan"],
            1,
            "--calib-data or --recipe took base.plan for one of its files",
        ),
        (["build", "{plan}", "--target", "abacus"], 1, "no target 'abacus'; available: auto, cpu, rtx"),
        (["build", "--random-weights", "--target", "abacus"], 1, "no target 'abacus'"),
        (["build", "{plan}", "--model", "vlf"], 1, "model and labels come with the weights"),
        (["build", "{plan}", "--span", "4"], 1, "INT8 needs real clips"),
        (["build", "{plan}", "--percentile", "0"], 1, "percentile is 0.0"),
        (["build", "{plan}", "--target", "rtx", "-o", "{tmp_dir}"], 1, "it is a folder; name a file in it"),
        (["build", "--random-weights", "-o", "{plan}/x.plan"], 1, "cannot write"),
        (["capture", SOURCE, "-o", "{plan}"], 1, "cannot write clips to"),
        (["run", "{plan}", SOURCE, "--phases", "1000"], 1, "phases is 1000, expected a whole number from 1 to 64"),
        (["bench", "{plan}", "--size", "big"], 1, "--size is 'big'"),
        (["bench", "{plan}", "--decisions", "0"], 1, "--decisions is 0"),
        (["capture", SOURCE, "--clips", "0", "-o", "{tmp}"], 1, "--clips is 0"),
        (["capture", SOURCE, "--seconds", "60", "-o", "{tmp}"], 1, "ended before a clip of 60 s was full"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(plans, tmp_path, capsys, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(shipped.PLANS, "vlf-tiny", tmp_path / "none" / "vlf-tiny.plan")
    (tmp_path / "empty.txt").write_text("\n")
    words = [
        word.format(empty=tmp_path / "empty.txt", plan=plans["int8"], tmp=tmp_path / "c", tmp_dir=tmp_path)
        for word in words
    ]
    assert main(words) == code
    err = capsys.readouterr().err
    # Where a library for GPUs is installed and no GPU is, or the CPU has no VNNI, a start says so first.
    notes = ("running on the CPU with ", "this CPU has no instructions")
    errors = [line for line in err.strip().splitlines() if not line.startswith(notes)]
    assert message in err and "Traceback" not in err and len(errors) == 1


def test_a_damaged_report_is_one_line(plans, tmp_path, capsys):
    plan = Plan.open(plans["int8"])
    members = {name: plan.read(name) for name in plan.manifest.members if name != "report.json"}
    gate = {"passed": True, "drop_points": 0.0, "measure": "agreement", "way": "int8 onnx", "max_drop_points": 1.0}
    for changed in ({"windows": 0}, {"windows": "many"}, {}):
        damaged = {**plan.report, "gate": {**gate, **changed}}
        path = Plan.write(tmp_path / "odd.plan", plan.manifest, members, damaged).path
        assert main(["inspect", str(path)]) == 1
        err = capsys.readouterr().err
        assert "its report or calibration record is not sound" in err and len(err.splitlines()) == 1


def test_wrong_usage_is_2_and_verbose_shows_the_traceback(capsys):
    with pytest.raises(SystemExit) as end:
        main(["build", "--precision", "int5"])
    assert end.value.code == 2
    assert main(["inspect", "none.plan", "-v"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_duration_ends_a_run(plans, capsys):
    assert (
        main(["run", str(plans["int8"]), "test://motion?seconds=100000&width=64&height=48", "--duration", "0.5"]) == 0
    )
    assert "decisions" in capsys.readouterr().err


@pytest.mark.parametrize("words, reader", [("run {plan} {source}", "head -n 2"), ("inspect {plan}", "true")])
def test_a_reader_that_leaves_is_no_error(plans, words, reader):
    words = words.format(plan=plans["int8"], source=f"'{SOURCE}'")
    command = f"set -o pipefail; {sys.executable} -m vlf_edge {words} | {reader}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr


def test_closed_output_is_no_error(plans):
    command = f"{sys.executable} -m vlf_edge inspect {plans['int8']} --json >&- 2>&-"
    assert subprocess.run(["bash", "-c", command]).returncode == 0


def test_labels_a_terminal_cannot_show_are_escaped(plans, tmp_path):
    from dataclasses import replace

    plan = Plan.open(plans["int8"])
    members = {name: plan.read(name) for name in plan.manifest.members if name != "report.json"}
    labels = tuple(f"动作 {i}" for i in range(12))
    named = Plan.write(tmp_path / "named.plan", replace(plan.manifest, labels=labels), members, {})
    command = [sys.executable, "-m", "vlf_edge", "run", str(named.path), SOURCE]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "\\u52a8" in done.stdout


def test_sigterm_finishes_the_video(plans, tmp_path):
    video = tmp_path / "out.mp4"
    source = "test://motion?seconds=100000&width=160&height=120"
    command = [*VLF_EDGE, "run", str(plans["int8"]), source, "--save", str(video)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(10):
        running.stdout.readline()
    running.terminate()
    _, err = running.communicate(timeout=240)
    assert running.returncode == 143 and err.endswith("\nvlf-edge: interrupted\n"), err
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) > 20


def test_run_does_not_save_onto_its_source(plans, tmp_path, capsys):
    video = tmp_path / "in.avi"
    assert main(["capture", SOURCE, "-o", str(tmp_path), "--clips", "1", "--seconds", "3"]) == 0
    (tmp_path / "clip_0000.avi").rename(video)
    before = video.read_bytes()
    assert main(["run", str(plans["int8"]), str(video), "--save", str(video)]) == 1
    assert "it is what" in capsys.readouterr().err and video.read_bytes() == before


def test_demo(plans, tmp_path):
    words = [
        sys.executable,
        "demos/camera.py",
        "--engine",
        plans["int8"],
        "--source",
        SOURCE,
        "--save",
        tmp_path / "d.avi",
    ]
    done = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 16 and "9 decisions" in done.stderr
    assert cv2.VideoCapture(str(tmp_path / "d.avi")).get(cv2.CAP_PROP_FRAME_COUNT) == 120
    bad = subprocess.run(
        [*map(str, words[:5]), "nothing.mp4"], cwd=ROOT, capture_output=True, text=True, env={**os.environ}
    )
    assert bad.returncode == 1 and "\ncamera.py: no file" in f"\n{bad.stderr}" and "Traceback" not in bad.stderr


def test_readme_example_runs_as_it_stands(plans, tmp_path):
    blocks = (ROOT / "README.md").read_text().split("```python\n")[1:]
    examples = [block.split("```")[0] for block in blocks]
    assert examples, "the README has an example"
    (tmp_path / "vlf.plan").write_bytes(plans["int8"].read_bytes())
    for example in examples:
        done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{example}\n{done.stderr}"
