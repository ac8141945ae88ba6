import cv2
import numpy as np
import pytest

from vlf_edge import Preprocess, ShapeError
from vlf_edge.video.preprocess import Preprocessor


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (240, 426), (96, 96), (50, 70), (1080, 1920)])
def test_cut_then_resize_equals_resize_then_cut(size):
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (*size, 3), np.uint8), (0, 0), 6)
    fast = Preprocessor(Preprocess(96, 96, 96))(image)
    scale = 96 / min(size)
    whole = cv2.resize(
        image,
        (round(size[1] * scale), round(size[0] * scale)),
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
    )
    top, left = (whole.shape[0] - 96) // 2, (whole.shape[1] - 96) // 2
    slow = whole[top : top + 96, left : left + 96]
    assert fast.shape == slow.shape == (96, 96, 3) and fast.dtype == np.uint8 and fast.flags.c_contiguous
    # Rounding the cut to whole source pixels moves the picture by less than one of its own.
    assert np.abs(fast.astype(int) - slow).mean() < 4


def test_shrinking_does_not_alias():
    """A fine checkerboard must become grey; picking single pixels would make large black and white patterns of it."""
    checkers = np.indices((960, 960)).sum(axis=0) % 2 * 255
    image = np.repeat(checkers[..., np.newaxis], 3, axis=2).astype(np.uint8)
    for side_px in (96, 112, 224, 320):
        small = Preprocessor(Preprocess(side_px, side_px, side_px))(image)
        assert np.abs(small.astype(int) - 127).max() <= 26, side_px


def test_margin_around_the_cut():
    image = np.zeros((256, 256, 3), np.uint8)
    image[16:240, 16:240] = 255
    assert Preprocessor(Preprocess(224, 224, 256))(image).min() == 255
    assert Preprocessor(Preprocess(224, 224, 224))(image).min() == 0


def test_image_of_the_right_size_passes_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(Preprocessor(Preprocess(64, 64, 64))(image), image)


@pytest.mark.parametrize(
    "image, got",
    [
        (np.zeros((4, 4), np.uint8), r"got \(4, 4\) uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"got \(4, 4, 4\) uint8"),
        (np.zeros((4, 4, 3), np.float32), r"got \(4, 4, 3\) float32"),
        (np.zeros((0, 4, 3), np.uint8), r"got \(0, 4, 3\) uint8"),
        ([[1, 2]], "got list"),
    ],
)
def test_anything_but_a_colour_image_is_refused(image, got):
    with pytest.raises(ShapeError, match=got):
        Preprocessor(Preprocess(4, 4, 4))(image)


def test_cut_larger_than_the_short_side_is_refused():
    with pytest.raises(ShapeError, match="short side 64 px is smaller than the 96x96 px"):
        Preprocessor(Preprocess(96, 96, 64))
