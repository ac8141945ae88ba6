"""Engine's border, and the fake engine."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vlf_edge import TensorSpec
from vlf_edge.backends.engine import Engine
from vlf_edge.backends.fake import FakeEngine
from vlf_edge.errors import ShapeError, VlfError

IMAGE = TensorSpec("image", "uint8", ("N", 8, 6, 3))
STATE = TensorSpec("state", "float32", ("N", 2))
TOKENS = TensorSpec("tokens", "float16", ("N", 4, 6))
WINDOW = TensorSpec("tokens", "float16", ("N", 3, 4, 6))
LOGITS = TensorSpec("logits", "float32", ("N", 5))


class Echo(Engine):
    """Two inputs, to test the border."""

    def __init__(self, max_batch=None):
        super().__init__("echo", (IMAGE, STATE), (STATE,), max_batch)
        self.frees = 0

    def _infer(self, inputs):
        return {"state": inputs["state"] + 1}

    def _close(self):
        self.frees += 1


def _arrays(batch=2, **changes):
    arrays = {"image": np.zeros((batch, 8, 6, 3), np.uint8), "state": np.zeros((batch, 2), np.float32)}
    return {name: array for name, array in {**arrays, **changes}.items() if array is not None}


def test_infer_takes_exactly_what_the_specs_say():
    engine = Echo()
    assert engine.dynamic_batch and engine.max_batch is None
    np.testing.assert_array_equal(engine.infer(_arrays(3))["state"], np.ones((3, 2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": None}, r"got inputs \['image'\], expected \['image', 'state'\]"),
        ({"more": np.zeros(1)}, r"got inputs \['image', 'more', 'state'\]"),
        ({"image": np.zeros((2, 8, 6, 3))}, r"image is float64\(2, 8, 6, 3\), expected image uint8\(N, 8, 6, 3\)"),
        ({"image": np.zeros((8, 6, 3), np.uint8)}, r"image is uint8\(8, 6, 3\), expected image uint8\(N, 8, 6, 3\)"),
        ({"image": np.zeros((2, 6, 8, 3), np.uint8)}, r"image is uint8\(2, 6, 8, 3\), expected"),
        ({"image": np.zeros((0, 8, 6, 3), np.uint8)}, r"image is uint8\(0, 8, 6, 3\), expected"),
        ({"state": np.zeros((1, 2), np.float32)}, r"state is float32\(1, 2\), expected state float32\(N, 2\), N=2"),
        ({"state": [[0, 0], [0, 0]]}, r"input state is list, expected a numpy array: state float32\(N, 2\)"),
    ],
)
def test_infer_refuses_anything_else(changes, message):
    with pytest.raises(ShapeError, match=message):
        Echo().infer(_arrays(**changes))


def test_infer_refuses_a_batch_beyond_the_largest():
    assert Echo(max_batch=2).infer(_arrays(2))["state"].shape == (2, 2)
    with pytest.raises(ShapeError, match="got a batch of 3, expected 1 to 2"):
        Echo(max_batch=2).infer(_arrays(3))


def test_close_is_idempotent_and_final():
    with Echo() as engine:
        engine.infer(_arrays())
    engine.close()
    assert engine.frees == 1
    with pytest.raises(RuntimeError, match="infer was called on a closed echo engine"):
        engine.infer(_arrays())


def test_fake_batches_equal_singles_bit_for_bit_in_the_right_dtype():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), np.uint8)
    frame, clip = FakeEngine((IMAGE,), (TOKENS,)), FakeEngine((WINDOW,), (LOGITS,))
    tokens = frame.infer({"image": images})["tokens"]
    assert (tokens.shape, tokens.dtype) == ((3, 4, 6), np.float16)
    for i in range(3):
        np.testing.assert_array_equal(frame.infer({"image": images[i : i + 1]})["tokens"][0], tokens[i])
    logits = clip.infer({"tokens": tokens[None]})["logits"]
    assert (logits.shape, logits.dtype) == ((1, 5), np.float32)
    assert (frame.calls, frame.frames, clip.calls) == (4, 6, 1)


def test_fake_tokens_are_the_mean_colours_of_bands():
    image = np.zeros((1, 8, 6, 3), np.uint8)
    image[0, 2:4] = (51, 102, 255)  # the second of four bands
    tokens = FakeEngine((IMAGE,), (TOKENS,)).infer({"image": image})["tokens"][0]
    np.testing.assert_allclose(tokens[1], [0.2, 0.4, 1.0, 0.1, 0.2, 0.5], atol=1e-3)
    assert not tokens[[0, 2, 3]].any()


def test_fake_logits_depend_on_the_order_of_frames():
    tokens = np.random.default_rng(0).random((1, 3, 4, 6)).astype(np.float16)
    clip = FakeEngine((WINDOW,), (LOGITS,))
    orders = [clip.infer({"tokens": tokens[:, order]})["logits"] for order in itertools.permutations(range(3))]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.combinations(orders, 2))


def test_fake_fails_when_told_to():
    engine = FakeEngine((IMAGE,), (TOKENS,), fail_on_call=2)
    image = {"image": np.zeros((1, 8, 6, 3), np.uint8)}
    engine.infer(image)
    with pytest.raises(VlfError, match="fails on call 2"):
        engine.infer(image)
    engine.infer(image)
