"""The benchmark that compares bases to enrol on: what it reads is what a plan gives, and what it joins weighs alike."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from dataclasses import replace

import bases
import bases_training
import numpy as np
import pytest
import torch
from bases_training import pictures

from vlf_edge import Plan, VideoWriter, open_source
from vlf_edge.compiler.fp32_model import SHIPPED_PLAN
from vlf_edge.enrolment.reading import Reader
from vlf_edge.models.weights import load_weights
from vlf_edge.opencv import load_cv2
from vlf_edge.synthetic.textures import HELD_OUT, RANKS, TRAINING


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """(a folder of two labels, a clip of each of two people, what is read of them for the weights that ship)"""
    folder = tmp_path_factory.mktemp("clips")
    for label in ("left", "nod"):
        (folder / label).mkdir()
        for seed, person in enumerate("ab"):
            clip = f"test://motion?label={label}&seed={seed}&seconds=2.5&fps=8&width=80&height=64"
            with open_source(clip) as source, VideoWriter(str(folder / label / f"{person}_1.avi"), fps=8) as writer:
                for frame in source:
                    writer.write(frame.image)
    args = Namespace(data=str(folder), group="^[ab]", query="")
    return folder, bases.read(args, *bases.features_of(load_weights("vlf-tiny").model))


def test_features_are_those_of_a_plan(clips):
    folder, shown = clips
    with Reader(Plan.open(str(SHIPPED_PLAN)), ("features",)) as reader:
        for one in shown:
            reading = reader.read(str(folder / one.clip.label / one.clip.name))
            np.testing.assert_allclose(one.clip.reading.windows, reading.windows, atol=1e-4)
            np.testing.assert_allclose(one.clip.reading.mirrored, reading.mirrored, atol=1e-4)


def test_what_is_joined_varies_alike(clips):
    _, shown = clips
    other = bases.changed(shown, lambda windows, number: 100 * windows[:, :5])
    both = np.concatenate([one.clip.windows for one in bases.joined(shown, other)])
    assert both.shape[1] == 197
    variances = both.var(axis=0)
    assert variances[:192].sum() == pytest.approx(variances[192:].sum())


def test_bases_are_compared_on_the_same_draws(clips, tmp_path, monkeypatch, capsys):
    """With a CNN of few layers in the place of Lite0, and both f in PyTorch: what OpenVINO makes of them is above."""

    def by_torch(map_of, owner, px):
        module = bases_training.Maps(map_of, owner).eval()
        return torch.inference_mode()(lambda images: module(torch.from_numpy(np.ascontiguousarray(images))).numpy())

    small = "resnet10t"
    for home in (bases, bases_training):
        monkeypatch.setattr(home, "LITE0", small)
        monkeypatch.setattr(home, "by_openvino", by_torch)
    monkeypatch.setitem(bases_training.SIZES, "Lite0", replace(bases_training.SIZES["Lite0"], backbone=small))
    words = f"{clips[0]} --work {tmp_path} --scenes 2 --clips 16 --test-clips 13 --ways 2 --shots 1 --draws 2 --json"
    monkeypatch.setattr(sys, "argv", ["bases.py", *words.split()])
    assert bases.main() == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    alone = ["averages of Lite0", "rendered of Lite0", "rendered of vlf-tiny's f"]
    assert [row["base"] for row in rows] == ["vlf-tiny", *alone, *(f"vlf-tiny + {name}" for name in alone)]
    for row in rows:
        assert row["right"][0] - rows[0]["right"][0] == pytest.approx(row["gained"][0])
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_other_weights_are_compared_alone(clips, monkeypatch, capsys):
    other = "vlf-tiny-acts"
    words = f"{clips[0]} --others {other} --ways 2 --shots 1 --draws 2 --json"
    monkeypatch.setattr(sys, "argv", ["bases.py", *words.split()])
    assert bases.main() == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["base"] for row in rows] == ["vlf-tiny", other] and len(rows[1]["gained"]) == 2


def test_surfaces_are_cut_from_photographs_and_emptier_ones_rank_lower(tmp_path):
    rng = np.random.default_rng(0)
    with pytest.raises(SystemExit, match="holds 0 photographs; expected 512"):
        pictures(str(tmp_path))
    for number in range(len(TRAINING) + len(HELD_OUT)):
        noise = rng.normal(128, 1 + number % 50, (20, 24, 3)).clip(0, 255).astype(np.uint8)
        load_cv2().imwrite(str(tmp_path / f"{number}.png"), noise)
    texture = pictures(str(tmp_path))
    empty, full = (np.mean([texture(number).std() for number in TRAINING if number % RANKS == r]) for r in (0, 31))
    assert texture(0).shape == (256, 256, 3) and empty < full
    assert len({texture(number).tobytes() for number in (*TRAINING, *HELD_OUT)}) == 512
