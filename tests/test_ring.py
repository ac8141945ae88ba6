import numpy as np
import pytest

from vlf_edge import Sampling
from vlf_edge.runtime.ring import FeatureRing


@pytest.mark.parametrize("phases", [1, 2, 3])
def test_window_equals_the_last_k_of_a_plain_list(phases):
    sampling, rng = Sampling(5, 1.0, phases), np.random.default_rng(0)
    ring, history = FeatureRing(sampling, (2, 3), "float32"), []
    for instant in range(40):
        history.append((rng.normal(size=(2, 3)).astype(np.float32), 0.1 * instant))
        ring.write(instant, *history[-1])
        wanted = history[instant::-phases][:5][::-1]
        assert ring.full == (len(wanted) == 5)
        if ring.full:
            window, first_s, last_s = ring.window()
            assert window.shape == (1, 5, 2, 3)
            np.testing.assert_array_equal(window[0], np.stack([tokens for tokens, _ in wanted]))
            assert (first_s, last_s) == (wanted[0][1], wanted[-1][1])


def test_window_is_a_view_not_a_copy():
    ring = FeatureRing(Sampling(2, 1.0), (1, 1), "float32")
    for instant in range(3):
        ring.write(instant, np.full((1, 1), instant), 0.0)
    window = ring.window()[0]
    assert window.base is not None and window.flags.c_contiguous


def test_holes_are_refused_and_reset_forgets():
    ring = FeatureRing(Sampling(2, 1.0), (1, 1), "float32")
    ring.write(0, np.zeros((1, 1)), 0.0)
    with pytest.raises(ValueError, match="instant 2 written, expected 1"):
        ring.write(2, np.zeros((1, 1)), 0.0)
    ring.reset()
    assert not ring.full
    ring.write(0, np.zeros((1, 1)), 0.0)
