import numpy as np
import pytest

from vlf_edge import Sampling
from vlf_edge.runtime.ring import Ring


@pytest.mark.parametrize("phases", [1, 2, 3])
@pytest.mark.parametrize("first", [0, 7])
def test_window_equals_the_last_k_of_a_plain_list(phases, first):
    sampling, rng = Sampling(5, 1.0, phases), np.random.default_rng(0)
    ring, history = Ring(sampling), []
    kept = np.zeros((*ring.shape, 2, 3))
    for count in range(40):
        history.append((rng.normal(size=(2, 3)), 0.1 * count))
        phase, places = ring.place(first + count, history[-1][1])
        for place in places:
            kept[phase, place] = history[-1][0]
        wanted = history[count::-phases][:5][::-1]
        assert ring.full == (len(wanted) == 5)
        if ring.full:
            window = ring.newest()
            entries = kept[window.phase, window.first : window.first + 5]
            np.testing.assert_array_equal(entries, np.stack([tokens for tokens, _ in wanted]))
            assert (window.t_start_s, window.t_end_s) == (wanted[0][1], wanted[-1][1])


def test_holes_are_refused_and_clearing_forgets():
    ring = Ring(Sampling(2, 1.0))
    assert ring.empty
    ring.place(0, 0.0)
    assert not ring.empty and ring.continues(1) and not ring.continues(2)
    with pytest.raises(ValueError, match="instant 2 written, expected 1"):
        ring.place(2, 0.0)
    ring.place(1, 0.5)
    assert ring.full
    ring.clear()
    assert ring.empty and not ring.full and ring.continues(9)
