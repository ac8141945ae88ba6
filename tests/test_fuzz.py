"""What reads what others wrote: a little of tests/fuzz.py, with inputs of hypothesis."""

from __future__ import annotations

import fuzz
import pytest
from hypothesis import given, settings, target
from hypothesis import strategies as st

COUNT = 400


def inputs(name: str) -> st.SearchStrategy[bytes]:
    """A seed with parts of it replaced by words and by other parts, or bytes of any kind."""
    known = fuzz.TARGETS[name]
    seeds = st.sampled_from(known.seeds)
    words = st.one_of(st.sampled_from([word.encode() for word in known.words]), st.binary(max_size=4))
    place = st.integers(0, 4000)

    def changed(seed: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
        for at, cut, word in changes:
            at %= len(seed) + 1
            seed = seed[:at] + word + seed[at + cut :]
        return seed

    mutated = st.builds(changed, seeds, st.lists(st.tuples(place, st.integers(0, 6), words), max_size=6))
    return st.one_of(mutated, st.binary(max_size=60))


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_whatever_is_read_is_taken_or_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "FOLDER", tmp_path)
    taken = [fuzz.TARGETS[name].read(seed) for seed in fuzz.TARGETS[name].seeds]
    assert any(taken) and not all(taken)

    @settings(max_examples=COUNT, deadline=None, database=None)
    @given(inputs(name))
    def check(data):
        target(float(fuzz.TARGETS[name].read(data)))

    check()


def test_the_checks_can_fail():
    def shows_it():
        raise fuzz.VlfError(f"no camera at rtsp://me:{fuzz.PASSWORD}@here")

    def breaks():
        raise KeyError("x")

    for read, error in ((shows_it, AssertionError), (breaks, KeyError)):
        with pytest.raises(error):
            fuzz.check(read)
