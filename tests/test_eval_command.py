"""vlf-edge eval, on real engines and files."""

import argparse
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import toy_manifest, write_toy_plan

from vlf_edge import VlfError
from vlf_edge.commands import eval as command
from vlf_edge.runtime.sinks import VideoWriter
from vlf_edge.synthetic import CLASSES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four classes of two clips with a square moving its own way each, and a file that is no video."""
    root = tmp_path_factory.mktemp("videos")
    for label, (dx, dy) in {"down": (0, 2), "left": (-2, 0), "right": (2, 0), "up": (0, -2)}.items():
        (root / label).mkdir()
        for number in range(2):
            with VideoWriter(root / label / f"{number}.avi", 15) as writer:
                for i in range(30 + 15 * number):
                    image = np.full((48, 96, 3), 20 * number, np.uint8)
                    x, y = (40 + dx * i) % 80, (16 + dy * i) % 32
                    image[y : y + 16, x : x + 16] = (60, 200, 90)
                    writer.write(image)
    (root / "up" / "broken.mp4").write_bytes(b"no video")
    return root


@pytest.fixture(scope="module")
def trained(toy_models):
    """(a real plan of the toy model, the weights it was built from)"""
    return toy_models(("right", "left", "up", "down"))[::-1]


def run(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args([str(word) for word in words]))


@pytest.mark.parametrize("against", ["fp32", "weights"])
def test_eval_on_a_folder_of_clips(trained, folder, tmp_path, capsys, against):
    plan, weights = trained
    words = [plan, folder, "--split", "all", "--live", "--against", weights if against == "weights" else "fp32"]
    assert run(*words, "--json", "--confusion", tmp_path / "c.png") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["clips"] == 8 and report["live"]["clips"] == 8 and "clips: 9 in" in err
    assert report["labels"] == ["right", "left", "up", "down"] and report["span_s"] == 1.5
    assert [name.endswith("broken.mp4") for name in report["broken"]] == [True]
    assert report["against"]["agreement"] == 1.0 and report["against"]["kl_nats"] < 1e-6
    assert report["against"]["max_abs_logits"] < 1e-3
    assert cv2.imread(str(tmp_path / "c.png")) is not None
    assert run(*words) == 0
    text = capsys.readouterr().out
    assert f"1 clip(s) could not be read: {folder / 'up' / 'broken.mp4'}" in text and "against" in text


def test_eval_on_rendered_clips_warns_of_random_weights(toy_plan, tmp_path, capsys):
    manifest = toy_manifest(frames=8, span_s=2.0, weights={"origin": "random", "seed": 0})
    graphs = [
        replace(g, outputs=(replace(g.outputs[0], shape=("N", len(CLASSES))),)) if g.stage == "clip" else g
        for g in manifest.graphs
    ]
    write_toy_plan(tmp_path / "motion.plan", replace(manifest, labels=CLASSES, graphs=tuple(graphs)))
    words = [tmp_path / "motion.plan", "motion", "--limit", "13", "--live", "--backend", "fake"]
    assert run(*words) == 0
    assert "[random weights: labels mean nothing]" in capsys.readouterr().out
    assert run(*words, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["clips"] == report["live"]["clips"] == report["live"]["windows"] == 13
    assert all(entry["clips"] == 1 for entry in report["per_class"].values())


def test_eval_errors_are_one_sentence(trained, folder, toy_plan, tmp_path):
    plan, _ = trained
    for words, message in (
        ([plan, folder, "--limit", "0"], "--limit is 0; expected 1 or more"),
        ([plan, folder, "--batch", "0"], "--batch is 0"),
        ([plan, "motion", "--seed", "-1"], "the seed is -1; expected a whole number from 0"),
        ([plan, "motion", "--seed", str(1 << 19)], "the seed is 524288"),
        ([plan, folder, "--confusion", "c.pdf"], "pictures are written as .png"),
        (["none.plan", folder], "no plan at none.plan"),
        ([toy_plan.path, folder, "--backend", "fake"], "still"),  # a class that the folder lacks
        ([plan, folder, "--against", tmp_path / "none.safetensors"], "no weights at"),
        ([plan, tmp_path / "nowhere"], "nowhere"),
    ):
        with pytest.raises(VlfError, match=message):
            run(*words)
