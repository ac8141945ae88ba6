import io
import json
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta

import cv2
import numpy as np
import pytest

from vlf_edge import Event, Frame, Prediction, SourceError, open_source
from vlf_edge.atomic import PARTIAL_PREFIX
from vlf_edge.cli import main
from vlf_edge.runtime.sinks import JsonLinesSink, PrintSink, VideoSink, VideoWriter, annotate, describe
from vlf_edge.video.sources import Address

DECIDED = Prediction("ok", 1.0, 3.0, 90, 12.5, "wave", 0.875, topk=(("wave", 0.875), ("still", 0.1)), dropped=3)
SOURCE = open_source([], fps=20)
WARMING = Prediction("warming", 0.0, 0.5, 15, 4.0)


def frame(image, seq=0):
    return Frame(image, seq / 30, seq, 0.0)


def test_lines_for_people(images):
    out = io.StringIO()
    with PrintSink(out) as sink:
        for prediction in (WARMING, None, DECIDED):
            sink.write(frame(images[0]), prediction)
    first, second = out.getvalue().splitlines()
    assert "warming" in first and "wave" not in first
    for part in ("3.00 s", "ok", "wave", "87.5%", "12.5 ms old", "3 dropped"):
        assert part in second


BEGUN = Event("door", "wave, \x1b[2J", 12.5, None, 0.75, 7)
ENDED = replace(BEGUN, t_end_s=14.25, peak_score=0.9375)


def test_events_are_lines_too():
    text, lines = io.StringIO(), io.StringIO()
    for sink in (PrintSink(text), JsonLinesSink(lines)):
        sink.write_event(BEGUN)
        sink.write_event(ENDED)
    first, second = text.getvalue().splitlines()
    assert "\x1b" not in first and all(part in first for part in ("door", "12.50 s", "begins", "wave", "event 7"))
    assert all(part in second for part in ("ended", "93.8%", "1.75 s long", "event 7"))
    begun, ended = (json.loads(line)["event"] for line in lines.getvalue().splitlines())
    assert begun["t_end_s"] is None and ended["t_end_s"] == 14.25
    assert {**ended, "at": None} == {
        "id": 7, "stream": "door", "label": "wave, \x1b[2J", "t_start_s": 12.5, "t_end_s": 14.25, "peak_score": 0.9375,
        "at": None,
    }  # fmt: skip
    assert datetime.fromisoformat(ended["at"].replace("Z", "+00:00")).utcoffset() == timedelta(0)


def test_random_weights_are_said_in_every_decision():
    random = Prediction("ok", 0, 1, 0, 1, "wave", 0.5, random_weights=True)
    assert "random weights" in describe(random) and "random weights" not in describe(DECIDED)


def test_json_lines_for_programs(images):
    out = io.StringIO()
    with JsonLinesSink(out) as sink:
        sink.write(frame(images[0]), DECIDED)
        sink.write(frame(images[0]), None)
        sink.write(frame(images[0]), WARMING)
    decided, warming = map(json.loads, out.getvalue().splitlines())
    assert decided == {
        "stream": "main", "state": "ok", "label": "wave", "score": 0.875, "topk": [["wave", 0.875], ["still", 0.1]],
        "t_start_s": 1.0, "t_end_s": 3.0, "age_ms": 12.5, "seq": 90, "dropped": 3, "random_weights": False,
    }  # fmt: skip
    assert warming["label"] is None and warming["score"] is None and warming["topk"] == []


@pytest.mark.parametrize("name", ["out.mp4", "out.avi"])
def test_annotated_video_has_every_frame(tmp_path, images, name):
    with VideoSink(tmp_path / name, SOURCE) as sink:
        for i, image in enumerate(np.repeat(np.repeat(images, 4, axis=1), 4, axis=2)):
            sink.write(frame(image, i), DECIDED if i == 20 else None)
    capture = cv2.VideoCapture(str(tmp_path / name))
    shown = []
    while (grabbed := capture.read())[0]:
        shown.append(grabbed[1])
    assert len(shown) == 40 and shown[0].shape == (192, 256, 3)
    strip = [image[-16:].astype(int).mean() for image in shown]
    assert strip[0] == pytest.approx(strip[19], abs=4), "nothing is written before the first decision"
    assert all(abs(level - strip[0]) > 4 for level in strip[20:]), "and the last one stays"


def test_annotation_leaves_the_frame_itself_alone(images):
    before = images[0].copy()
    shown = annotate(images[0], DECIDED)
    np.testing.assert_array_equal(images[0], before)
    assert (shown != before).any() and (annotate(images[0], None) == before).all()


def test_refusals(tmp_path, images):
    with pytest.raises(SourceError, match="there is no folder"):
        VideoSink(tmp_path / "none" / "out.mp4", SOURCE)
    sink = VideoSink(tmp_path / "out.mp4", SOURCE)
    sink.write(frame(images[0]), None)
    sink.close()
    sink.close()
    with VideoWriter(tmp_path / "out.mp4", 20.0) as writer:
        writer.write(images[0])
        with pytest.raises(SourceError, match=r"shape \(10, 10, 3\), the first one had \(48, 64, 3\)"):
            writer.write(images[0][:10, :10])
    with pytest.raises(SourceError, match="cannot write mp4v video"):
        VideoSink(tmp_path / "out.nonsense", SOURCE).write(frame(images[0]), None)


def test_the_source_is_never_written_to(tmp_path, images):
    path = tmp_path / "in.avi"
    with VideoSink(path, SOURCE) as sink:
        for i, image in enumerate(images[:4]):
            sink.write(frame(image, i), None)
    before = path.read_bytes()
    for name in ("in.avi", f"../{tmp_path.name}/in.avi"):
        with pytest.raises(SourceError, match="it is what .* is read from"):
            VideoSink(tmp_path / name, open_source(path))
    assert path.read_bytes() == before


def test_a_file_that_lost_frames_is_an_error(tmp_path, images):
    sink = VideoSink(tmp_path / "out.avi", SOURCE)
    for i, image in enumerate(images):
        sink.write(frame(image, i), None)
    sink._writer._written += 1
    with pytest.raises(SourceError, match="only 40 of its 41 frames were kept; is the disk full"):
        sink.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.mp4", "out.avi"])
def test_a_recording_is_under_its_name_only_when_it_is_whole(tmp_path, images, name):
    path = tmp_path / name
    path.write_bytes(b"an earlier recording")
    sink = VideoSink(path, SOURCE)
    for i, image in enumerate(images):
        sink.write(frame(image, i), None)
    assert path.read_bytes() == b"an earlier recording"
    sink.close()
    assert len(list(open_source(path))) == 40 and [file.name for file in tmp_path.iterdir()] == [name]


def test_a_recording_that_fails_leaves_what_was_there(tmp_path, images):
    path = tmp_path / "out.avi"
    path.write_bytes(b"an earlier recording")
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, 20.0) as writer:
        writer.write(images[0])
        raise KeyboardInterrupt
    assert path.read_bytes() == b"an earlier recording" and [file.name for file in tmp_path.iterdir()] == ["out.avi"]


RECORDER = """
import sys, time
from vlf_edge.cli import main
from vlf_edge.atomic import PARTIAL_PREFIX
from vlf_edge.cli import main
from vlf_edge.runtime.sinks import JsonLinesSink, PrintSink, VideoSink, VideoWriter, annotate, describe
from vlf_edge.video.sources import Address
write = VideoWriter.write
def slow(self, image):
    write(self, image)
    print("frame", flush=True)
    time.sleep(600)
VideoWriter.write = slow
main(["capture", "test://motion", "-o", sys.argv[1], "--clips", "1", "--seconds", "1"])
"""


def test_a_killed_capture_leaves_no_half_clip_and_the_next_one_tidies_up(tmp_path, capsys):
    killed = subprocess.Popen([sys.executable, "-c", RECORDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert killed.stdout.readline() == b"frame\n"
    killed.kill(), killed.communicate()
    assert [path.name.startswith(PARTIAL_PREFIX) for path in tmp_path.iterdir()] == [True]
    assert main(["capture", "test://motion", "-o", str(tmp_path), "--clips", "1", "--seconds", "1"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["clip_0000.avi"]


def test_what_is_no_file_or_no_video_is_not_written_to(tmp_path):
    (tmp_path / "link.avi").symlink_to("real.avi")
    for path, why in (("/dev/null", "a device"), (tmp_path / "link.avi", "a symbolic link"), ("a%03d.png", "a video")):
        with pytest.raises(SourceError, match=f"cannot write .*{why}"):
            VideoSink(path, SOURCE)


def test_a_video_of_a_camera_has_the_rate_at_which_frames_come_and_one_size(tmp_path):
    camera = Address("camera", True, lambda: None, again=True)
    path = tmp_path / "camera.avi"
    with VideoSink(path, camera, stream="door") as sink:
        for i in range(20):
            size = (48, 64) if i < 10 else (96, 128)  # it comes back with another
            t_s = i / 12.5 + (5.0 if i >= 10 else 0.0)
            sink.write(Frame(np.full((*size, 3), 9, np.uint8), t_s, i, t_s, stream="door"), None)
            sink.write(None, Prediction("no_signal", 0.0, 0.0, seq=-1, age_ms=0.0, stream="door"))
    written = open_source(path)
    assert written.fps == pytest.approx(12.5) and [frame.image.shape for frame in written] == [(48, 64, 3)] * 20
