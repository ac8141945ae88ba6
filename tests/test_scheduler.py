"""Which frames go next: no threads, no clock but the one given."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlf_edge import Sampling
from vlf_edge.runtime.scheduler import DUE_PER_CAMERA, Backlog, Waiting
from vlf_edge.runtime.stream import DueFrame, Stream

SAMPLING = Sampling(4, 1.0)


def frame(stream: Stream, t_s: float, arrives_s: float | None = None) -> Waiting:
    """A frame of a stream, due if its grid says so."""
    slot = stream.sampler.accept(t_s)
    arrives_s = t_s if arrives_s is None else arrives_s
    due = None if slot is None else DueFrame(stream, None, slot, t_s, 0, arrives_s)
    return Waiting(stream, SimpleNamespace(t_s=t_s), due)


def backlog(*, live: int = 0, files: int = 0, max_batch: int = 8, max_delay_s: float = 0.0):
    made = Backlog(max_batch, max_delay_s)
    streams = [Stream(f"{'camera' if n < live else 'file'} {n}", SAMPLING) for n in range(live + files)]
    for number, stream in enumerate(streams):
        made.open(stream, live=number < live)
    return made, streams


def test_a_batch_takes_one_frame_of_each_stream_the_oldest_first():
    made, (a, b, c) = backlog(live=3, max_batch=2)
    for stream, at_s in ((b, 0.1), (a, 0.2), (c, 0.3)):
        for i in range(2):
            made.offer(frame(stream, i * 0.25, at_s + i))
    assert {waiting.stream for waiting in made.take()} == {a, b}
    assert {waiting.stream for waiting in made.take()} == {c, b}, "c waited longest, then b"
    assert {waiting.stream for waiting in made.take()} == {a, c}
    assert made.take() == [] and made.ready_in_s(9.0) is None


def test_the_first_frame_waits_for_others_no_longer_than_told():
    made, (a, b) = backlog(live=2, max_delay_s=0.02)
    assert made.ready_in_s(5.0) is None
    made.offer(frame(a, 0.0, 5.0))
    assert made.ready_in_s(5.005) == pytest.approx(0.015)
    assert made.ready_in_s(5.03) == 0
    made.offer(frame(b, 0.0, 5.01))
    assert made.ready_in_s(5.01) == 0, "every stream has one: waiting brings nothing"
    made.take()
    made.end(b)
    made.offer(frame(a, 0.25, 6.0))
    assert made.ready_in_s(6.0) == 0, "nobody else will come"


def test_a_flooding_camera_loses_its_own_frames_only():
    made, (flood, calm) = backlog(live=2)
    made.offer(frame(calm, 0.0))
    for i in range(50):
        made.offer(frame(flood, i * 0.25))
    assert calm.stats.counts["dropped"] == 0 and flood.stats.counts["dropped"] == 50 - (2 * DUE_PER_CAMERA - 1)
    batch = made.take()
    assert {waiting.stream for waiting in batch} == {flood, calm}
    lost = next(waiting.due for waiting in batch if waiting.stream is flood)
    assert lost.dropped == 47 and lost.slot.first == 47, "too long ago to stand in for: a hole, which the ring will see"


def test_the_frame_after_a_lost_one_stands_in_for_it_where_it_may():
    sampling = Sampling(4, 1.0, phases=8)
    made, stream = Backlog(8), Stream("camera", sampling)
    made.open(stream, live=True)
    for i in range(4):  # every 1/32 s: half a step is 1/8 s
        made.offer(frame(stream, i / 32))
    (first,) = made.take()
    assert (first.due.slot.first, first.due.slot.last, first.due.dropped) == (0, 2, 2)
    (second,) = made.take()
    assert (second.due.slot.first, second.due.slot.last, second.due.dropped) == (3, 3, 0)


def test_a_file_waits_and_loses_nothing():
    made, (file,) = backlog(files=1)
    for i in range(8):
        assert not made.must_wait(file)
        made.offer(frame(file, i * 0.25))
    assert made.must_wait(file) and file.stats.counts["dropped"] == 0
    assert [made.take()[0].frame.t_s for _ in range(8)] == [i * 0.25 for i in range(8)]


def test_frames_between_go_out_in_order_and_without_waiting():
    made, (a,) = backlog(files=1, max_delay_s=1.0)
    for t_s in (0.0, 0.1, 0.2, 0.25):
        made.offer(frame(a, t_s))
    assert [waiting.frame.t_s for waiting in made.take()] == [0.0]
    assert made.ready_in_s(0.0) == 0
    assert [waiting.frame.t_s for waiting in made.take()] == [0.1, 0.2, 0.25]
    made.end(a)
    assert made.ended


@settings(max_examples=200, deadline=None)
@given(
    cameras=st.integers(1, 6),
    events=st.lists(st.tuples(st.integers(0, 5), st.floats(0.001, 0.6)), max_size=200),
    every=st.integers(1, 9),
)
def test_every_frame_is_taken_or_counted_and_order_is_kept(cameras, events, every):
    made, streams = backlog(live=cameras, max_batch=3)
    clock_s = dict.fromkeys(streams, 0.0)
    offered, taken = dict.fromkeys(streams, 0), {stream: [] for stream in streams}

    def take():
        batch = [waiting for waiting in made.take() if waiting.due is not None]
        assert len(batch) <= 3 and len({waiting.stream for waiting in batch}) == len(batch)
        for waiting in batch:
            taken[waiting.stream].append(waiting.due)

    for number, (camera, step_s) in enumerate(events):
        stream = streams[camera % cameras]
        clock_s[stream] += step_s
        waiting = frame(stream, clock_s[stream])
        offered[stream] += waiting.due is not None
        made.offer(waiting)
        if number % every == 0:
            take()
    while made.ready_in_s(1e9) is not None:
        take()
    for stream in streams:
        due = taken[stream]
        assert offered[stream] == len(due) + stream.stats.counts["dropped"]
        assert stream.stats.counts["dropped"] == sum(one.dropped for one in due)
        assert [one.t_s for one in due] == sorted(one.t_s for one in due)
