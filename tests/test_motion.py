"""Motion-13: what a label says must be what is seen, and only the order of frames may say it."""

import cv2
import numpy as np
import pytest

from vlf_edge.synthetic import CLASSES, HELD_OUT_SEED, MIRRORS, REVERSES, SHIFTS, USUAL, MotionClip

WIDTH, HEIGHT = 96, 72


def clip(label, seed=0, **options):
    return MotionClip(label, seed, WIDTH, HEIGHT, **options)


@pytest.mark.parametrize("backward, forward", REVERSES.items())
def test_a_class_is_its_partner_played_backwards(backward, forward):
    """Frame for frame: so no model that sees no order tells them apart, whatever it learns."""
    for seed in (3, HELD_OUT_SEED + 4):
        one, other = clip(forward, seed, fps=10), clip(backward, seed, fps=10)
        assert one.count == other.count == 20
        for i in range(one.count):
            np.testing.assert_array_equal(one.render(i), other.render(other.count - 1 - i))
            np.testing.assert_array_equal(one.shift(0, i), -other.shift(other.count - 1 - i, other.count - 1))


@pytest.mark.parametrize("label", CLASSES)
def test_any_frame_can_be_rendered_by_itself(label):
    one, two = clip(label, 11), clip(label, 11)
    later = one.render(40)
    assert later.shape == (HEIGHT, WIDTH, 3) and later.dtype == np.uint8
    two.render(3)
    np.testing.assert_array_equal(two.render(40), later)
    assert (clip(label, 12).render(40) != later).any()


# Grey levels of a 4 x 3 thumbnail of frame 17, row by row, as the first version rendered them.
RENDERED = {
    ("left", 3): [145, 119, 139, 210, 176, 174, 192, 203, 171, 191, 188, 180],
    ("open", 7): [213, 188, 196, 99, 198, 159, 144, 202, 198, 174, 138, 205],
    ("clockwise", 5): [190, 166, 96, 127, 159, 154, 155, 189, 135, 179, 204, 181],
    ("nod", HELD_OUT_SEED + 5): [197, 195, 165, 117, 175, 151, 162, 103, 185, 128, 113, 143],
}


@pytest.mark.parametrize("label, seed", RENDERED)
def test_a_seed_gives_the_same_clip_in_every_version(label, seed):
    """Seeds name the clips of reports and records. To a grey level or two: OpenCV's rounding differs among CPUs."""
    thumbnail = cv2.resize(clip(label, seed).render(17), (4, 3), interpolation=cv2.INTER_AREA).mean(axis=2)
    np.testing.assert_allclose(thumbnail.ravel(), RENDERED[label, seed], atol=2)


EXPECTED = {
    "right": ("x", 1), "left": ("x", -1), "down": ("y", 1), "up": ("y", -1), "approach": ("log scale", 1),
    "recede": ("log scale", -1), "clockwise": ("angle", 1), "counter-clockwise": ("angle", -1),
    "open": ("aperture", 1), "close": ("aperture", -1),
}  # fmt: skip


@pytest.mark.parametrize("label", EXPECTED)
def test_the_mover_moves_as_its_class_says(label):
    axis, sign = EXPECTED[label]
    for seed in range(10):
        one = clip(label, seed)
        shift = one.shift(0, one.count - 1)
        assert np.sign(shift[SHIFTS.index(axis)]) == sign
        assert np.abs(shift).argmax() == SHIFTS.index(axis), (label, seed, shift)


@pytest.mark.parametrize("label, axis", [("shake", 0), ("nod", 1)])
def test_shaking_and_nodding_turn_back(label, axis):
    for seed in range(10):
        one = clip(label, seed)
        steps = [one.shift(i, i + 1)[axis] for i in range(one.count - 1)]
        assert min(steps) < 0 < max(steps)


@pytest.mark.parametrize("label", ["left", "shake", "open"])
def test_a_mover_may_rest_before_and_after(label):
    one, whole = clip(label, 7, seconds=6.0, rest_s=2.0), clip(label, 7, seconds=2.0)
    assert 2.0 <= one.begins_s < one.ends_s <= 4.0 - 1 / one.fps and one.begins_s + one.ends_s == pytest.approx(
        179 / 30
    )
    before, after = int(one.begins_s * one.fps), int(np.ceil(one.ends_s * one.fps))
    assert not one.shift(0, before).any() and not one.shift(after, one.count - 1).any()
    np.testing.assert_allclose(one.shift(before, after), whole.shift(0, whole.count - 1), atol=0.05)
    assert (one.render(0) != one.render(before)).any(), "what else stirs does not rest"


@pytest.mark.parametrize("label", ["left", "right", "up", "down"])
def test_pixels_move_as_told(label):
    """Of the whole view: its shift is measured from the pixels, by phase correlation, and compared with ``shift``."""
    axis, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[label]
    window = cv2.createHanningWindow((WIDTH, HEIGHT), cv2.CV_32F)
    agree = []
    for one in (clip(label, seed, ease=0.5) for seed in range(24)):
        early, late = (cv2.cvtColor(one.render(i), cv2.COLOR_BGR2GRAY).astype(np.float32) for i in (28, 34))
        shift_px, certainty = cv2.phaseCorrelate(early, late, window)
        if one.moves_view and certainty > 0.6:  # else a surface that shows too little to be followed
            told_px = one.shift(28, 34)[:2] * USUAL[:2] * HEIGHT
            agree.append(np.sign(told_px[axis]) == sign and np.abs(shift_px - told_px).max() < 1.5)
    assert len(agree) >= 6 and np.mean(agree) >= 0.8


def test_still_clips_hardly_change_and_others_do():
    def change(label, seed):
        early, late = (clip(label, seed, ease=1.0).render(i).astype(int) for i in (10, 50))
        return np.abs(early - late).mean()

    still = np.median([change("still", seed) for seed in range(8)])
    assert all(np.median([change(label, seed) for seed in range(8)]) > 1.5 * still for label in ("left", "clockwise"))


@pytest.mark.parametrize("label, least, most", [("up", 0.3, 0.6), ("still", 0.2, 0.6), ("open", 0.1, 0.4)])
def test_others_move_besides_but_never_fill_the_view(label, least, most):
    shares = []
    for seed in range(60):
        one, alone = clip(label, seed), clip(label, seed)
        alone._distractors = ()
        shares.append(max((one.render(i) != alone.render(i)).any(axis=2).mean() for i in (0, 30, 59)))
    assert least < np.mean(np.array(shares) > 0) < most
    assert np.max(shares) < 0.75 and np.mean(shares) < 0.15


def test_held_out_clips_show_other_surfaces():
    from vlf_edge.synthetic.textures import HELD_OUT, TRAINING

    assert not set(HELD_OUT) & set(TRAINING)


def test_mirrors_and_reverses_name_classes():
    assert {*REVERSES, *REVERSES.values(), *MIRRORS, *MIRRORS.values()} <= set(CLASSES)
    assert all(MIRRORS[MIRRORS[label]] == label for label in MIRRORS)
