"""Augmentation: one change for all frames of a clip, and labels that stay true."""

import numpy as np
import pytest

from vlf_edge.datasets.augment import (
    Augmentation,
    enlarged,
    find_mirrors,
    flip_table,
    jitter_colour,
    random_resized_crop,
    soften,
)
from vlf_edge.errors import ShapeError
from vlf_edge.types import Preprocess


def ramps(frames: int = 3, height: int = 40, width: int = 60) -> np.ndarray:
    """(K, H, W, 3) uint8 whose pixels say where they are: blue 4x, green 4y, red the frame."""
    clip = np.zeros((frames, height, width, 3), np.uint8)
    clip[..., 0] = 4 * np.arange(width)
    clip[..., 1] = 4 * np.arange(height)[:, None]
    clip[..., 2] = np.arange(frames)[:, None, None]
    return clip


@pytest.mark.parametrize(
    ("labels", "mirrors"),
    [
        (("left", "right", "up"), {"left": "right", "right": "left"}),
        (("turn_left", "Turn-Right"), {"turn_left": "Turn-Right", "Turn-Right": "turn_left"}),
        (("turnLeft", "turnRight"), {"turnLeft": "turnRight", "turnRight": "turnLeft"}),
        (("left1", "right1"), {"left1": "right1", "right1": "left1"}),
        (
            ("Pulling something from left to right", "Pulling something from right to left"),
            {
                "Pulling something from left to right": "Pulling something from right to left",
                "Pulling something from right to left": "Pulling something from left to right",
            },
        ),
        (
            ("clockwise", "counter-clockwise"),
            {"clockwise": "counter-clockwise", "counter-clockwise": "clockwise"},
        ),
        (
            ("spin anticlockwise", "spin clockwise"),
            {"spin clockwise": "spin anticlockwise", "spin anticlockwise": "spin clockwise"},
        ),
        (
            ("left-handed wave", "wave (right handed)", "wave"),
            None,
        ),
        (("wave", "upright", "leftover", "copyright", "bright"), {}),
        (("move left", "wave"), None),
        (("left", "right", "clockwise"), None),
        (("from left to right", "from left to left"), None),
        (("Left", "left", "right"), None),
    ],
)
def test_mirrors_are_found_in_the_names(labels, mirrors):
    assert find_mirrors(labels) == mirrors


def test_a_flip_table_is_its_own_inverse():
    labels = ("up", "left", "clockwise", "right", "counter-clockwise")
    table = flip_table(labels, find_mirrors(labels))
    assert table == (0, 3, 4, 1, 2)
    assert tuple(table[table[i]] for i in range(5)) == tuple(range(5))
    assert flip_table(labels, {}) == (0, 1, 2, 3, 4)
    assert flip_table(labels, None) is None


def is_flipped(frames: np.ndarray) -> bool:
    blue = frames[0, :, :, 0].astype(float).mean(axis=0)
    return blue[0] > blue[-1]


def test_pixels_and_label_are_flipped_together_or_not_at_all():
    augment = Augmentation(20, 30, flips=(1, 0, 2))
    seen = set()
    for seed in range(40):
        for label in range(3):
            frames, new = augment(ramps(), label, np.random.default_rng(seed))
            assert frames.shape == (3, 20, 30, 3) and frames.dtype == np.uint8 and frames.flags["C_CONTIGUOUS"]
            assert new == ((1, 0, 2)[label] if is_flipped(frames) else label)
            seen.add(is_flipped(frames))
    assert seen == {True, False}


def test_without_mirrors_nothing_is_flipped():
    augment = Augmentation(20, 30)
    for seed in range(40):
        frames, label = augment(ramps(), 5, np.random.default_rng(seed))
        assert label == 5 and not is_flipped(frames)


def test_nothing_is_turned_upside_down():
    for seed in range(40):
        frames, _ = Augmentation(20, 30, flips=(0,))(ramps(), 0, np.random.default_rng(seed))
        rows = frames[0, :, :, 1].astype(float).mean(axis=1)
        assert rows[-1] > rows[0]


def test_all_frames_get_the_same_change():
    still = np.repeat(ramps(frames=1), 4, axis=0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        changed = jitter_colour(random_resized_crop(still, 20, 30, rng), rng)
        assert (changed == changed[0]).all()
        # Frame by frame with the same draws: the fast way, one tall picture, gives nothing else.
        alone = [jitter_colour(still[i : i + 1], np.random.default_rng(seed)) for i in range(4)]
        assert np.array_equal(np.concatenate(alone), jitter_colour(still, np.random.default_rng(seed)))


def test_the_order_of_frames_is_kept():
    frames = np.stack([np.full((24, 24, 3), 40 * i, np.uint8) for i in range(6)])
    for seed in range(20):
        changed, _ = Augmentation(16, 16, flips=(0,))(frames, 0, np.random.default_rng(seed))
        assert (np.diff(changed.reshape(6, -1).mean(axis=1)) >= 0).all()


def test_a_crop_keeps_its_share_and_its_shape():
    shares, aspects = [], []
    for seed in range(100):
        crop = random_resized_crop(ramps(height=48, width=60), 32, 40, np.random.default_rng(seed))[0].astype(float)
        width_px = (crop[:, -1, 0].mean() - crop[:, 0, 0].mean()) / 4 * 40 / 39
        height_px = (crop[-1, :, 1].mean() - crop[0, :, 1].mean()) / 4 * 32 / 31
        shares.append(width_px * height_px / (48 * 60))
        aspects.append(width_px / height_px / (40 / 32))
    assert 0.45 < min(shares) < 0.6 and 0.9 < max(shares) <= 1.05
    assert 1 / 1.3 < min(aspects) < 0.9 and 1.1 < max(aspects) < 1.3


def test_a_crop_of_the_smallest_pictures_works():
    for seed in range(10):
        assert random_resized_crop(ramps(1, 1, 1), 8, 4, np.random.default_rng(seed)).shape == (1, 8, 4, 3)
        assert random_resized_crop(ramps(1, 2, 50), 8, 4, np.random.default_rng(seed)).shape == (1, 8, 4, 3)


def test_colours_change_but_pictures_stay_recognisable():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
    changes = []
    for seed in range(50):
        changed = jitter_colour(picture, np.random.default_rng(seed))
        changes.append(np.abs(changed.astype(int) - picture).mean())
        assert np.corrcoef(changed.mean(axis=3).ravel(), picture.mean(axis=3).ravel())[0, 1] > 0.7
    assert max(changes) > 20 and min(changes) < 20


def test_softening_is_rare_and_light():
    picture = np.random.default_rng(0).integers(60, 200, (2, 16, 16, 3), np.uint8)
    changes = np.array(
        [np.abs(soften(picture, np.random.default_rng(s)).astype(int) - picture).mean() for s in range(200)]
    )
    assert 0.3 < (changes > 0).mean() < 0.6 and changes.max() < 40
    assert soften(picture, np.random.default_rng(0)).dtype == np.uint8


@pytest.mark.parametrize("size", [(64, 64, 64), (224, 224, 256), (32, 64, 64), (64, 32, 80), (1, 1, 1)])
def test_training_reads_the_view_of_the_model_in_finer_pixels_and_a_little_around_it(size):
    view = Preprocess(*size)
    larger = enlarged(view)
    assert larger.height_px >= view.height_px and larger.width_px >= view.width_px
    assert larger.short_side_px >= max(larger.height_px, larger.width_px), "as Preprocessor wants it"
    if size[0] > 1:
        finer = larger.short_side_px / view.short_side_px
        assert 1.25 < finer < 1.35
        for old, new in ((view.height_px, larger.height_px), (view.width_px, larger.width_px)):
            assert 0.97 <= new / old / finer <= 1.17, "as much of the picture, or up to 15 % more"


@pytest.mark.parametrize("frames", [np.zeros((4, 8, 8), np.uint8), np.zeros((4, 8, 8, 3)), ramps()[:0]])
def test_frames_of_another_shape_are_refused(frames):
    with pytest.raises(ShapeError, match=r"frames to augment must be \(K, H, W, 3\) uint8, got"):
        Augmentation(8, 8)(frames, 0, np.random.default_rng(0))
