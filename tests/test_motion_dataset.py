"""Rendered clips as a data set: the live sampler's frames, and symmetries whose labels follow what is done to them."""

from itertools import product
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest

from vlf_edge.datasets import open_dataset
from vlf_edge.datasets.motion import CLIPS_PER_SCENE, MotionDataset
from vlf_edge.datasets.symmetries import Symmetry
from vlf_edge.errors import VlfError
from vlf_edge.synthetic import CLASSES, HELD_OUT_SEED, REVERSES, SHIFTS
from vlf_edge.types import Preprocess
from vlf_edge.video.preprocess import Preprocessor
from vlf_edge.video.sources import open_source

SIZE = Preprocess(24, 24, 24)
EVERY = [Symmetry(*choice) for choice in product(range(4), (False, True), (False, True))]


def motion(split, **options):
    return MotionDataset(split, preprocess=SIZE, frames=4, **options)


def test_test_clips_are_frames_of_the_source_they_name():
    data = motion("test", limit=13)
    assert [data.labels[clip.label] for clip in data.clips] == list(CLASSES)
    prepare = Preprocessor(SIZE)
    for index in (0, 7):
        frames = list(open_source(data.clips[index].name))
        assert len(frames) == 60 and frames[1].t_s == pytest.approx(1 / 30)
        expected = [prepare(frames[i].image) for i in (7, 22, 37, 52)]  # the middles of four segments
        np.testing.assert_array_equal(data.sample(index, None).frames, expected)


@pytest.mark.parametrize("seed", [0, 1, (1 << 18) - 1])
def test_splits_of_any_seed_share_no_clip_and_only_val_and_test_show_held_out_surfaces(seed):
    spans = {}
    for split in ("train", "calibration", "val", "test"):
        names = [clip.name for clip in motion(split, seed=seed).clips]
        seeds = [int(dict(parse_qsl(urlsplit(name).query))["seed"]) for name in names]
        assert all((clip >= HELD_OUT_SEED) == (split in ("val", "test")) for clip in seeds)
        spans[split] = set(seeds)
    assert len(set.union(*spans.values())) == sum(map(len, spans.values()))


def test_a_training_clip_depends_on_its_index_and_generator_alone():
    one, two = motion("train"), motion("train")
    two.sample(5, np.random.default_rng(9))
    a, b = (data.sample(1000, np.random.default_rng(1)) for data in (one, two))
    np.testing.assert_array_equal(a.frames, b.frames)
    assert a.label == b.label and a.frames.shape == (4, 24, 24, 3) and a.targets.shape == (3, len(SHIFTS))
    later = one.sample(1000 + CLIPS_PER_SCENE, np.random.default_rng(1))
    assert (later.frames != a.frames).any(), "another scene"


def test_splits_share_no_clip_and_training_never_ends():
    names = [{clip.name for clip in motion(split, limit=50).clips} for split in ("train", "calibration", "val", "test")]
    assert sum(map(len, names)) == len(set.union(*names)) == 200
    data = motion("train", limit=10)
    assert data.endless and not motion("val").endless
    assert data.sample(10**9, np.random.default_rng(0)).frames.dtype == np.uint8


def test_unknown_splits_are_named():
    with pytest.raises(VlfError, match="no split 'all' of motion; available: train, calibration, val, test"):
        open_dataset("motion", "all", preprocess=SIZE, frames=4)


def moving_dot(dx, dy):
    """(5, 9, 9, 3): a dot that moves by (dx, dy) a frame through the middle."""
    frames = np.zeros((5, 9, 9, 3), np.uint8)
    for k in range(5):
        frames[k, 4 + (k - 2) * dy, 4 + (k - 2) * dx] = 255
    return frames


@pytest.mark.parametrize("symmetry", EVERY)
def test_symmetries_move_as_their_labels_and_shifts_say(symmetry):
    ways = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
    for label, way in ways.items():
        frames = symmetry.frames(moving_dot(*way))
        place = [np.argwhere(frame[..., 0])[0][::-1] for frame in frames]  # x, y
        seen = tuple(place[1] - place[0])
        assert ways[CLASSES[symmetry.label(CLASSES.index(label))]] == seen
        shifts = np.zeros((4, 5), np.float32)
        shifts[:, :2] = way
        assert [tuple(row[:2]) for row in symmetry.shifts(shifts)] == [seen] * 4


def test_symmetries_of_the_other_classes():
    def becomes(label, *what):
        return CLASSES[Symmetry(*what).label(CLASSES.index(label))]

    for quarters in range(4):
        assert becomes("clockwise", quarters, True, False) == "counter-clockwise"
        assert becomes("clockwise", quarters, True, True) == "clockwise"
        assert becomes("approach", quarters, True, True) == "recede"
        assert becomes("open", quarters, False, True) == "close"
        assert becomes("still", quarters, True, True) == "still"
        assert becomes("shake", quarters, True, True) == ("nod" if quarters % 2 else "shake")
    turned = Symmetry(0, True, True).shifts(np.array([[0, 0, 0, 1.0, 0], [0, 0, 2.0, 0, 3.0]], np.float32))
    np.testing.assert_array_equal(turned, [[0, 0, -2, 0, -3], [0, 0, 0, 1, 0]])


def test_what_sees_no_order_is_near_chance_on_directions():
    """Features of single frames, averaged over time as TSN does, and the best linear classifier of those: of two
    opposite classes it can at best guess one. (That no other could do better: test_motion, played backwards.)"""
    project = np.random.default_rng(0).normal(size=(24 * 24 * 3, 200)) / 24
    data = motion("val", limit=156)
    samples = [data.sample(index, None) for index in range(len(data))]
    truth = np.array([sample.label for sample in samples])
    frames = np.stack([sample.frames for sample in samples]).reshape(len(data), 4, -1) / 128.0 - 1
    bags = np.maximum(frames @ project, 0).mean(axis=1)
    right = []
    for quarter in np.array_split(np.arange(len(data)), 4):  # every clip is held out once
        fit = np.delete(np.arange(len(data)), quarter)
        learned = bags[fit].T @ np.eye(len(CLASSES))[truth[fit]]
        weights = np.linalg.solve(bags[fit].T @ bags[fit] + np.eye(200), learned)
        for backward, forward in REVERSES.items():
            pair = np.array([CLASSES.index(backward), CLASSES.index(forward)])
            held_out = quarter[np.isin(truth[quarter], pair)]
            right += list(pair[(bags[held_out] @ weights[:, pair]).argmax(axis=1)] == truth[held_out])
    assert len(right) == 120
    assert abs(np.mean(right) - 0.5) < 0.1, np.mean(right)
