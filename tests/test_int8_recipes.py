"""The comparison of int8 recipes on hand-made graphs: its rows are what they claim, its errors say what to do.

ModelOpt lives in an environment of its own, which tests do not have: a script in its place stands for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import int8_recipes as recipes
import numpy as np
import pytest
from conftest import BENCHMARKS
from onnx import numpy_helper
from onnx_toys import clip_toy, frame_toy, images, relative, run, tokens, write_fp32_plan

from vlf_edge.compiler.graph import parse
from vlf_edge.compiler.quantization.quantize import quantizable_nodes
from vlf_edge.synthetic import CLASSES

GRAPHS = {"frame": frame_toy(), "clip": clip_toy(classes=len(CLASSES))}


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Path:
    """An fp32 plan that names the 13 classes of motion, of weights that were never trained."""
    return write_fp32_plan(tmp_path_factory.mktemp("plan") / "toy.plan", {"name": "toy"}, CLASSES)


def script(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BENCHMARKS / "int8_recipes.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def small(plan: Path, data: str = "motion") -> list[str]:
    """The smallest run there is."""
    calibration = "test://motion?seconds=12&width=32&height=24"
    return [str(plan), data, "--calib", calibration, "--calib-samples", "16", "--limit", "26"]


def test_every_recipe_is_measured_in_every_way(plan):
    done = script(*small(plan), "--methods", "minmax", "percentile", "--ways", "onnx", "onnxruntime", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert [(row["recipe"], row["way"]) for row in figures["rows"]] == [
        (recipe, way)
        for recipe in ("ours, minmax", "ours, percentile", "onnxruntime", "onnxruntime, told our recipe")
        for way in ("onnx", "onnxruntime")
    ]
    assert (figures["test"]["clips"], figures["calibration"]["windows"]) == (26, 16)
    for row in figures["rows"]:
        assert 0 < row["frame_error"] < 0.1 and 0 < row["logits_error"] < 0.3, row
        assert row["points_lost"] == pytest.approx(100 * (figures["fp32_accuracy"] - row["accuracy"]), abs=0.01)


def test_a_row_is_the_difference_to_fp32():
    """Against the obvious: each stage run once over everything."""
    frames, windows = images(8), np.arange(8).reshape(4, 2)
    encoded = run(GRAPHS["frame"], {"image": frames})
    logits = run(GRAPHS["clip"], {"tokens": encoded[windows]})
    labels = logits.argmax(axis=1)
    labels[0] = (labels[0] + 1) % len(CLASSES)  # fp32 is wrong once
    with recipes.open_stages("onnx", GRAPHS) as stages:
        reference = recipes.Reference.of(stages, frames, windows, labels)
    other = {"frame": frame_toy(seed=5), "clip": GRAPHS["clip"]}
    (row,) = recipes.measure("other", other, reference, ["onnx"])
    moved = run(other["frame"], {"image": frames})
    decided = run(GRAPHS["clip"], {"tokens": moved[windows]})
    assert row["frame_error"] == pytest.approx(relative(encoded, moved), rel=1e-4)
    assert row["logits_error"] == pytest.approx(relative(logits, decided), rel=1e-4)
    assert row["agreement"] == np.mean(decided.argmax(axis=1) == logits.argmax(axis=1))
    assert row["points_lost"] == 75 - 100 * np.mean(decided.argmax(axis=1) == labels)


def test_onnxruntime_quantises_each_stage_by_its_defaults(tmp_path):
    inputs = {"frame": images(20), "clip": tokens(20)}
    made = recipes.onnxruntime_defaults(GRAPHS, inputs, tmp_path)
    assert list(made) == ["frame", "clip"]
    for stage, name in (("frame", "image"), ("clip", "tokens")):
        nodes = parse(made[stage]).graph.node
        makers = {output: node.op_type for node in nodes for output in node.output}
        weighted = [node for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
        assert weighted and all(makers.get(i) == "DequantizeLinear" for node in weighted for i in node.input)
        feed = {name: inputs[stage]}
        assert 0 < relative(run(GRAPHS[stage], feed), run(made[stage], feed)) < 0.1


def test_onnxruntime_told_our_recipe_makes_the_same_layers_int8(tmp_path):
    frames = images(21)  # no multiple of a batch
    windows = np.stack([np.arange(20), np.arange(1, 21)], axis=1)
    made = recipes.onnxruntime_told(GRAPHS, recipes.Clips(frames, windows, windows[:0], ("toy",)), 99.99, tmp_path)
    for stage, data in made.items():
        nodes = parse(data).graph.node
        makers = {output: node.op_type for node in nodes for output in node.output}
        in_int8 = {node.name for node in nodes if [makers.get(i) for i in node.input[:2]] == ["DequantizeLinear"] * 2}
        assert in_int8 == {layer.node for layer in quantizable_nodes(GRAPHS[stage])}
        scales = {name: array for name, array in constants(data).items() if name.endswith("_zero_point")}
        assert scales and all(array.dtype == np.int8 and not array.any() for array in scales.values())
    assert 0 < relative(run(GRAPHS["frame"], {"image": frames}), run(made["frame"], {"image": frames})) < 0.1


def constants(data: bytes) -> dict[str, np.ndarray]:
    return {constant.name: numpy_helper.to_array(constant) for constant in parse(data).graph.initializer}


def stand_in(path: Path, code: str) -> str:
    """An executable that Python runs in ModelOpt's place: its arguments are those of modelopt_recipe.py's command."""
    path.write_text(
        f"#!{sys.executable}\nimport json, sys\nimport numpy as np\n_, script, graph, npz, output = sys.argv\n{code}"
    )
    os.chmod(path, 0o755)
    return str(path)


def test_modelopt_gets_the_graphs_and_what_calibrates_them(tmp_path):
    code = (
        "inputs = {name: list(array.shape) for name, array in np.load(npz).items()}\n"
        "open(output, 'wb').write(open(graph, 'rb').read() + json.dumps(inputs).encode())\n"
        "print('talks on stdout first')\n"
        "print(json.dumps({'versions': {'nvidia-modelopt': '1.2'}}))\n"
    )
    python = stand_in(tmp_path / "python", code)
    inputs = {"frame": images(6), "clip": tokens(3)}
    made, versions = recipes.modelopt_defaults(GRAPHS, inputs, tmp_path, python)
    assert versions == {"nvidia-modelopt": "1.2"}
    assert made["frame"] == GRAPHS["frame"] + b'{"image": [6, 8, 8, 3]}'
    assert made["clip"] == GRAPHS["clip"] + b'{"tokens": [3, 2, 16, 8]}'


def test_a_failure_of_modelopt_is_one_sentence(tmp_path):
    python = stand_in(tmp_path / "python", "raise ImportError('No module named modelopt')")
    with pytest.raises(recipes.VlfError, match="frame stage: ImportError: No module named modelopt; see modelopt_rec"):
        recipes.modelopt_defaults(GRAPHS, {"frame": images(6), "clip": tokens(3)}, tmp_path, python)


def test_mistakes_end_in_one_line(plan, tmp_path):
    done = script(*small(plan, str(tmp_path)))
    assert done.returncode == 1 and "int8_recipes: " in done.stderr and "Traceback" not in done.stderr
    done = script(*small(plan), "--modelopt-python", str(tmp_path / "nowhere"))
    assert done.returncode == 2 and "nowhere" in done.stderr and "modelopt_recipe.py --help" in done.stderr


def test_the_table_is_markdown_with_every_row():
    row = {"recipe": "ours, percentile", "way": "onnx", "frame_error": 0.0164, "logits_error": None}
    row |= {"agreement": 0.9846, "accuracy": 0.95, "points_lost": 0.5}
    figures = {
        "machine": {"cpu": "a CPU", "os": "an OS", "load_average": 0.0, "versions": {"python": "3"}},
        "modelopt": {"nvidia-modelopt": "0.47.0"},
        "model": "toy",
        "random_weights": False,
        "weights_sha256": "0123456789abcdef",
        "calibration": {"data": ["motion"], "windows": 64, "sha256": ""},
        "test": {"data": "motion", "split": "test", "clips": 650, "broken": 0},
        "fp32_accuracy": 0.955,
        "rows": [row, {"recipe": "modelopt", "way": "openvino", "failed": "no | kernel"}],
    }
    lines = recipes.table(figures).splitlines()
    assert lines[-2] == "| ours, percentile | onnx | 1.64% | NaN | 98.46% | 95.00% | +0.50 |"
    assert lines[-1] == "| modelopt | openvino | no / kernel |  |  |  |  |"
    assert "weights 0123456789ab" in lines[-6] and "95.50%" in lines[-6]
