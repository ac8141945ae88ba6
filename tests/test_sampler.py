import numpy as np
import pytest

from vlf_edge import Sampling
from vlf_edge.video.sampler import TOLERANCE_S, Sampler, segment_centres


def served(times_s, sampling):
    """{instant: time of the frame that serves it} of one unbroken stretch."""
    sampler, instants = Sampler(sampling), {}
    for t_s in times_s:
        tick = sampler.accept(t_s)
        if tick is not None:
            assert not tick.gap
            instants.update(dict.fromkeys(range(tick.first, tick.last + 1), t_s))
    return instants


def slow_and_obvious(times_s, sampling, until_s):
    """Instant n is served by the first frame at or after it (a millisecond early still counts)."""
    count = int((until_s - times_s[0]) / sampling.grid_s)
    return {n: next(t for t in times_s if t >= times_s[0] + n * sampling.grid_s - TOLERANCE_S) for n in range(count)}


@pytest.mark.parametrize("fps", [15, 25, 29.97, 30, 60])
@pytest.mark.parametrize("phases", [1, 2, 4])
def test_instants_are_served_by_the_first_frame_at_or_after_them(fps, phases):
    sampling = Sampling(8, 2.0, phases)
    times_s = 3.7 + np.arange(int(10 * fps)) / fps
    instants = served(times_s, sampling)
    expected = slow_and_obvious(times_s, sampling, times_s[-1])
    assert {n: instants[n] for n in expected} == expected


def test_frame_rate_does_not_change_the_window():
    sampling = Sampling(8, 2.0)
    grids = [served(np.arange(int(6 * fps)) / fps, sampling) for fps in (15, 25, 29.97, 60)]
    for n in range(20):
        assert max(grid[n] for grid in grids) - min(grid[n] for grid in grids) <= 1 / 15 + 1e-9


def test_dropped_frames_do_not_bend_the_grid():
    sampling, rng = Sampling(8, 2.0), np.random.default_rng(1)
    times_s = np.arange(300) / 30
    kept = [t for i, t in enumerate(times_s) if i == 0 or rng.random() > 0.2]
    instants = served(kept, sampling)
    assert all(0 <= t - n * 0.25 <= 0.125 + TOLERANCE_S for n, t in instants.items())
    assert sorted(instants) == list(range(len(instants)))


def test_one_frame_serves_several_instants_when_phases_outrun_the_camera():
    sampler = Sampler(Sampling(4, 1.0, phases=5))
    ticks = [sampler.accept(t) for t in (0.0, 0.1, 0.2)]
    assert [(t.first, t.last) for t in ticks] == [(0, 0), (1, 2), (3, 4)]


def test_late_frame_is_a_gap_and_begins_a_new_grid():
    sampler = Sampler(Sampling(4, 1.0))
    assert not sampler.accept(0.0).gap
    assert not sampler.accept(0.25 + 0.125).gap, "1.5 steps after the last one: just in time"
    tick = sampler.accept(0.5 + 0.126 + 0.001)
    assert (tick.gap, tick.first) == (True, 0)
    assert sampler.accept(0.7) is None, "the new grid begins at the late frame"


def test_time_running_backwards_is_a_gap_and_repeats_are_ignored():
    sampler = Sampler(Sampling(4, 1.0))
    sampler.accept(5.0)
    assert sampler.accept(5.0) is None
    assert sampler.accept(1.0).gap


def test_milliseconds_of_containers_do_not_lose_instants():
    sampling = Sampling(8, 2.0)
    rounded = np.round(np.arange(300) / 29.97, 3)
    assert sorted(served(rounded, sampling)) == list(range(len(served(rounded, sampling))))


@pytest.mark.parametrize("count", [1, 3, 8, 9, 100])
def test_segment_centres(count):
    chosen = segment_centres(count, 8)
    assert len(chosen) == 8 and chosen == sorted(chosen) and 0 <= chosen[0] and chosen[-1] < count
    if count == 8:
        assert chosen == list(range(8))
    if count == 100:
        assert chosen == [6, 18, 31, 43, 56, 68, 81, 93]
