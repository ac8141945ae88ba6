"""The benchmark that compares bases to enrol on: what it reads is what a plan gives, and what it joins weighs alike."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest

from vlf_edge import Plan, VideoWriter, open_source
from vlf_edge.compiler.fp32_model import SHIPPED_PLAN
from vlf_edge.enrolment.reading import Reader
from vlf_edge.models.weights import load_weights
from vlf_edge.opencv import load_cv2
from vlf_edge.synthetic.textures import HELD_OUT, RANKS, TRAINING


@pytest.fixture(scope="module")
def bases(benchmark):
    return benchmark("bases")


@pytest.fixture(scope="module")
def clips(bases, tmp_path_factory):
    """(a folder of two clips, what is read of them for the weights that ship)"""
    folder = tmp_path_factory.mktemp("clips")
    for label in ("left", "nod"):
        (folder / label).mkdir()
        clip = f"test://motion?label={label}&seconds=3&fps=15&width=80&height=64"
        with open_source(clip) as source, VideoWriter(str(folder / label / "a_1.avi"), fps=15) as writer:
            for frame in source:
                writer.write(frame.image)
    args = Namespace(data=str(folder), group="^a", query="")
    return folder, bases.read(args, *bases.features_of(load_weights("vlf-tiny").model))


def test_features_are_those_of_a_plan(clips):
    folder, shown = clips
    with Reader(Plan.open(str(SHIPPED_PLAN)), ("features",)) as reader:
        for one in shown:
            reading = reader.read(str(folder / one.clip.label / one.clip.name))
            np.testing.assert_allclose(one.clip.reading.windows, reading.windows, atol=1e-4)
            np.testing.assert_allclose(one.clip.reading.mirrored, reading.mirrored, atol=1e-4)


def test_what_is_joined_varies_alike(bases, clips):
    _, shown = clips
    other = bases.changed(shown, lambda windows, number: 100 * windows[:, :5])
    both = np.concatenate([one.clip.windows for one in bases.joined(shown, other)])
    assert both.shape[1] == 197
    variances = both.var(axis=0)
    assert variances[:192].sum() == pytest.approx(variances[192:].sum())


def test_surfaces_are_cut_from_photographs_and_emptier_ones_rank_lower(bases, tmp_path):
    from bases_training import pictures

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
