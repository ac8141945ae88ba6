"""A clip of every event: its frames, its name, and what is removed to make room."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlf_edge import ClipsSink, Event, Frame, Prediction, ThreadedSink, VlfError, open_source
from vlf_edge.atomic import PARTIAL_PREFIX
from vlf_edge.runtime.sinks import clips
from vlf_edge.runtime.sinks.clips import clip_name

pytest.importorskip("av", reason="PyAV is not installed: pip install 'vlf_edge[camera]'")
FPS, START_S = 10.0, 1000.0


def image_of(number: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A frame that says which it is, in eight columns that are black or white."""
    bits = np.array([(number >> bit) & 1 for bit in range(8)], np.uint8) * 255
    return np.ascontiguousarray(np.broadcast_to(bits.repeat(size[1] // 8)[:, None], (*size, 3)))


def frame(number: int, stream: str = "door", size: tuple[int, int] = (48, 64)) -> Frame:
    return Frame(image_of(number, size), START_S + number / FPS, number, 5.0, stream=stream)


def shown(path) -> list[tuple[int, float]]:
    """(number of the frame, seconds into the clip) of a clip's frames."""
    capture, found = cv2.VideoCapture(str(path)), []
    while (grabbed := capture.read())[0]:
        bits = grabbed[1].mean((0, 2)).reshape(8, -1).mean(1) > 128
        found.append((sum(1 << bit for bit in range(8) if bits[bit]), capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3))
    return found


def event(start: int, end: int | None = None, number: int = 1, label: str = "wave") -> Event:
    """start, end: numbers of frames."""
    return Event("door", label, START_S + start / FPS, None if end is None else START_S + end / FPS, 0.9, number)


def play(sink: ClipsSink, frames, events: dict[int, list[Event]]) -> None:
    """events: told after the frame of that number."""
    for number in frames:
        sink.write(frame(number), None)
        for one in events.get(number, ()):
            sink.write_event(one)


def test_a_clip_begins_before_its_event_and_ends_after_it(tmp_path):
    sink = ClipsSink(tmp_path / "clips", pre_s=1.0, post_s=0.5)
    play(sink, range(60), {25: [event(20)], 42: [event(20, 40)]})
    path = sink.clip_of("door", 1)
    assert path.parent == tmp_path / "clips" and path.name.startswith("door-wave-")
    found = shown(path)
    assert [number for number, _ in found] == list(range(10, 46))
    assert [t_s for _, t_s in found] == pytest.approx([i / FPS for i in range(36)], abs=0.002)
    assert ThreadedSink(sink).clip_of("door", 1) == path
    assert sink.stats()["written"] == 1 and sink.clip_of("yard", 1) is None and sink.clip_of("door", 2) is None
    sink.close()
    assert [p.name for p in (tmp_path / "clips").iterdir()] == [path.name]


def test_browsers_play_it(tmp_path):
    import av

    with ClipsSink(tmp_path) as sink:
        play(sink, range(30), {25: [event(20)]})
        assert sink.clip_of("door", 1) is None, "it is not complete"
    with av.open(str(sink.clip_of("door", 1))) as file:
        video = file.streams.video[0]
        assert (video.codec_context.name, video.pix_fmt) == ("h264", "yuv420p")
    data = sink.clip_of("door", 1).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "a browser begins before it has all of it"


def test_frames_keep_their_times_and_events_their_clips(tmp_path):
    """Of a camera that loses frames, two events at a time, one that is told to be over ten frames late, and one that
    is told only at its end."""
    sink = ClipsSink(tmp_path, pre_s=0.5, post_s=0.5)
    events = {
        30: [event(25, number=1)],
        40: [event(35, number=2), event(25, 38, number=1)],
        60: [event(35, 50, number=2)],
    }
    events[70] = [event(62, 66, number=3)]
    play(sink, [n for n in range(100) if not 41 <= n <= 45], events)
    found = [shown(sink.clip_of("door", number)) for number in (1, 2, 3)]
    lost = set(range(41, 46))
    assert [{n for n, _ in one} for one in found] == [
        set(range(20, 44)) - lost, set(range(30, 61)) - lost, set(range(57, 72)),
    ]  # fmt: skip
    assert all(t_s == pytest.approx((n - one[0][0]) / FPS, abs=0.002) for one in found for n, t_s in one)
    sink.close()


def test_a_long_event_is_cut_and_its_end_makes_no_second_clip(tmp_path):
    with ClipsSink(tmp_path, pre_s=1.0, max_clip_s=3.0) as sink:
        play(sink, range(90), {20: [event(20)], 85: [event(20, 80)]})
        assert [number for number, _ in shown(sink.clip_of("door", 1))] == list(range(10, 41))
    assert len(list(tmp_path.iterdir())) == 1


def test_many_frames_a_second_are_thinned_and_the_ring_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "_RING_BYTES", 20_000)
    sink = ClipsSink(tmp_path, pre_s=1.0)
    for number in range(600):
        sink.write(Frame(image_of(number), number / 60, number, 0.0, stream="door"), None)
    ring = sink._cameras["door"].ring
    assert sum(len(jpeg) for _, jpeg in ring) <= 20_000
    steps_s = np.diff([t_s for t_s, _ in ring])
    assert steps_s.min() == pytest.approx(4 / 60) and steps_s.max() == pytest.approx(4 / 60)


def test_silence_another_size_and_another_file_end_a_clip(tmp_path):
    sink = ClipsSink(tmp_path, pre_s=0.2, post_s=5.0)
    play(sink, range(20), {15: [event(10)], 18: [event(10, 18)]})
    sink.write(None, Prediction("no_signal", 0.0, 1.0, -1, 0.0, stream="door"))
    sink.write(None, Prediction("no_signal", 0.0, 1.0, -1, 0.0, stream="never seen"))
    assert len(shown(sink.clip_of("door", 1))) == 12
    play(sink, range(20, 30), {25: [event(24, number=2)]})
    sink.write(frame(30, size=(32, 32)), None)
    sink.write(replace(frame(0), begins=True), None)
    assert len(shown(sink.clip_of("door", 2))) == 8
    sink.close()


def test_the_oldest_clips_go_and_no_other_file(tmp_path):
    others = ["holiday.mp4", "door-wave-1.mp4", "notes.txt"]
    for name in others:
        (tmp_path / name).write_bytes(b"x" * 1000)
        os.utime(tmp_path / name, (0, 0))
    sink = ClipsSink(tmp_path, pre_s=0.2, post_s=0.2, max_clips=3)
    for number in range(5):
        play(sink, range(100 * number, 100 * number + 10), {
            100 * number + 5: [event(100 * number + 3, 100 * number + 5, number=number)],
        })  # fmt: skip
    assert [sink.clip_of("door", number) is not None for number in range(5)] == [False, False, True, True, True]
    assert {path.name for path in tmp_path.iterdir()} >= set(others) and len(list(tmp_path.iterdir())) == 6
    sink._max_bytes = 1
    play(sink, range(500, 520), {505: [event(503, 505, number=9)]})
    assert {path.name for path in tmp_path.iterdir()} == {*others, sink.clip_of("door", 9).name}, "the newest stays"


def test_a_clip_that_cannot_be_written_costs_no_other(tmp_path, caplog):
    sink = ClipsSink(tmp_path / "clips", pre_s=0.2, post_s=0.2)
    play(sink, range(10), {5: [event(4)]})
    for path in (tmp_path / "clips").iterdir():
        assert path.name.startswith(PARTIAL_PREFIX)
        path.unlink()
    (tmp_path / "clips").rmdir()
    play(sink, range(10, 20), {10: [event(4, 10)]})
    stats = sink.stats()
    assert (stats["failed"], stats["state"]) == (1, "failing") and "No such file" in stats["last_error"]
    (tmp_path / "clips").mkdir()
    play(sink, range(20, 40), {25: [event(24, 25, number=2)]})
    assert sink.clip_of("door", 2).is_file() and sink.stats()["state"] == "ok"


FULL = """
import resource, signal, sys
import numpy as np
from vlf_edge import ClipsSink, Event, Frame
rng = np.random.default_rng(0)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # as a disk that gets full
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with ClipsSink(sys.argv[1]) as sink:
    for number in range(60):
        image = rng.integers(0, 255, (96, 128, 3), np.uint8)
        sink.write(Frame(image, number / 10, number, 0.0, stream="door"), None)
        if number == 20:
            sink.write_event(Event("door", "wave", 1.0, None, 0.9, 1))
stats = sink.stats()
print(stats["written"], stats["failed"], stats["last_error"])
"""


def test_on_a_full_disk_there_is_no_half_clip(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("0 1 cannot write "), done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_pyav_clips_are_even_and_that_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "av", None)
    caplog.set_level("INFO")
    with ClipsSink(tmp_path, pre_s=1.0, post_s=0.5) as sink:
        play(sink, [n for n in range(60) if not 30 <= n < 35], {25: [event(20)], 42: [event(20, 40)]})
        source = list(open_source(sink.clip_of("door", 1)))
        assert source[-1].t_s == pytest.approx(3.5, abs=0.1) and len(source) == pytest.approx(3.5 * 15, abs=2)
    assert "pip install" in caplog.text


@settings(max_examples=50, deadline=None)
@given(st.text(), st.text(), st.integers(0, 10**9), st.integers(0, 2**31))
def test_names_are_safe(stream, label, begun_s, number):
    name = clip_name(Event(stream, label, 0.0, None, 0.5, number), begun_s)
    assert clips._NAME.fullmatch(name) and len(name.encode()) < 200
    assert "/" not in name and "\0" not in name and name.isprintable() and not name.startswith((".", "-"))


def test_names_tell_what_they_are_of():
    assert clip_name(event(0, number=12, label="wave hand/2"), 0) == "door-wave_hand_2-19700101T000000Z-12.mp4"


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VlfError, match="cannot make the folder .* for clips"):
        ClipsSink(tmp_path / "file")
