"""What is asked of a source, what is done to its frames, and times that are not to be trusted."""

import logging
import types

import cv2
import numpy as np
import pytest
from encoded_videos import write_numbers
from rtsp_server import frame_number

from vlf_edge import BackendMissing, CameraError, SourceError, SourceOptions, VlfError, open_source
from vlf_edge.cli import main
from vlf_edge.types import Frame
from vlf_edge.video.sources import Address, Source, find_source
from vlf_edge.video.sources.camera import ask
from vlf_edge.video.sources.catch_up import CatchUp
from vlf_edge.video.sources.csi import csi_pipeline
from vlf_edge.video.sources.stamps import Stamps
from vlf_edge.video.sources.wrappers import Paced, Thinned

IMAGE = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)


class Recorded(Source):
    """Frames at given times; None at a time begins anew there."""

    def __init__(self, times_s, begins=()):
        super().__init__("recorded")
        self._frames = [Frame(IMAGE, t_s, i, 0.0, i in begins) for i, t_s in enumerate(times_s)]

    def read(self):
        return self._frames.pop(0) if self._frames else None

    def close(self):
        self._frames = []


@pytest.mark.parametrize(
    "flip, expected",
    [
        ("horizontal", IMAGE[:, ::-1]),
        ("vertical", IMAGE[::-1]),
        ("rotate90", np.rot90(IMAGE, -1)),
        ("rotate180", np.rot90(IMAGE, 2)),
        ("rotate270", np.rot90(IMAGE)),
    ],
)
def test_flips(flip, expected):
    (frame,) = open_source([IMAGE], SourceOptions(flip=flip))
    np.testing.assert_array_equal(frame.image, expected)


def test_a_file_is_played_again_and_every_round_begins(tmp_path):
    path = write_numbers(tmp_path / "a.mp4", [0, 0.1, 0.2])
    frames = list(open_source(path, SourceOptions(loop=2)))
    assert [frame_number(f.image) for f in frames] == [0, 1, 2] * 2 and [f.seq for f in frames] == list(range(6))
    assert [f.begins for f in frames] == [False] * 3 + [True, False, False]
    endless = open_source(path, SourceOptions(loop=-1))
    assert [frame_number(endless.read().image) for _ in range(10)][-1] == 0
    endless.close()
    assert endless.read() is None


@pytest.mark.parametrize("loop, message", [(0, "--loop is 0; expected how often"), (2, "can be read but once")])
def test_what_cannot_be_played_again(loop, message):
    with pytest.raises(VlfError, match=message):
        open_source([IMAGE], SourceOptions(loop=loop))


def test_a_file_at_its_own_pace_is_a_camera():
    now, waits = [50.0], []

    def wait(seconds):
        waits.append(round(seconds, 3))
        now[0] += seconds

    source = Paced(Recorded([3.0, 3.1, 3.1, 0.5, 0.7, 9.0], begins={5}), lambda: now[0], wait)
    frames = []
    for frame in source:
        frames.append(frame)
        now[0] += 0.04  # of work
    assert source.live and waits == [0.06, 0.16]  # one is late, two begin anew
    assert frames[1].captured_s == pytest.approx(50.1) and [f.seq for f in frames] == list(range(6))
    source.close()
    assert find_source("a.mp4", SourceOptions(realtime=True)).live and not find_source("a.mp4").live


def test_no_more_frames_a_second_than_wanted():
    times_s = np.arange(90) / 30
    kept = [f.t_s for f in Thinned(Recorded(times_s), 20)]
    assert len(kept) == 60 and np.diff(kept).max() < 0.067
    assert len(list(Thinned(Recorded(times_s), 100))) == 90
    assert [f.seq for f in Thinned(Recorded([0, 0.1, 0.2, 5, 5.1, 0.0], begins={2}), 1)] == [0, 2, 3, 5]


def test_an_address_or_a_source_of_the_user_is_changed_alike():
    address = Address("mine", False, lambda: Recorded([0, 1]), again=True)
    assert len(list(open_source(address, SourceOptions(loop=3)))) == 6
    assert len(list(open_source(Recorded([0, 0.1, 1]), SourceOptions(max_fps=1)))) == 2


@pytest.mark.parametrize(
    "words, message",
    [
        (["--fps", "0"], "--fps is 0.0; expected above 0"),
        (["--width", "0"], "--width is 0; expected from 1"),
        (["--read-timeout", "nan"], "--read-timeout is nan"),
        (["--loop", "-2"], "--loop is -2"),
    ],
)
def test_options_out_of_their_limits(toy_plan, capsys, words, message):
    assert main(["run", str(toy_plan.path), "test://motion", "--backend", "fake", *words]) == 1
    assert message in capsys.readouterr().err


def test_run_takes_the_options(toy_plan, capsys, images, tmp_path):
    for i, image in enumerate(images[:20]):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    words = ["--backend", "fake", "--json", "--fps", "20", "--loop", "2", "--max-fps", "4", "--flip", "rotate90"]
    assert main(["run", str(toy_plan.path), str(tmp_path), *words]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 8 and '"gap"' in told.out


class Driver:
    """A V4L2 camera as cv2.VideoCapture shows it: it has MJPG and YUYV, 640 x 480 and 1280 x 720, at up to 30."""

    def __init__(self):
        self.has = {cv2.CAP_PROP_FOURCC: self.code("YUYV"), cv2.CAP_PROP_FRAME_WIDTH: 640.0,
                    cv2.CAP_PROP_FRAME_HEIGHT: 480.0, cv2.CAP_PROP_FPS: 30.0}  # fmt: skip

    @staticmethod
    def code(letters):
        return float(cv2.VideoWriter_fourcc(*letters))

    def set(self, key, value):
        if key == cv2.CAP_PROP_FOURCC and value in (self.code("MJPG"), self.code("YUYV")):
            self.has[key] = float(value)
        elif key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT):
            sizes = {cv2.CAP_PROP_FRAME_WIDTH: (640, 1280), cv2.CAP_PROP_FRAME_HEIGHT: (480, 720)}[key]
            self.has[key] = float(min(sizes, key=lambda size: abs(size - value)))
        elif key == cv2.CAP_PROP_FPS:
            self.has[key] = min(29.97, value)
        return True

    def get(self, key):
        return self.has[key]


def test_a_camera_gives_what_it_was_asked_for_or_it_is_said(caplog):
    ask("/dev/video0", Driver(), SourceOptions())
    ask("/dev/video0", Driver(), SourceOptions(width_px=1280, height_px=720, fps=30, format="MJPG"))
    assert not caplog.records
    ask("/dev/video0", Driver(), SourceOptions(width_px=1920, height_px=1080, fps=60, format="H264"))
    assert caplog.messages == [
        "/dev/video0 does not do what it was asked: width 1920, gives 1280, height 1080, gives 720, fps 60, "
        "gives 29.97, format H264, gives YUYV"
    ]
    with pytest.raises(SourceError, match="format is 'JPEG2'; expected four letters"):
        ask("/dev/video0", Driver(), SourceOptions(format="JPEG2"))


def test_devices_by_every_name():
    for name in (7, "7", "/dev/video7", "v4l2:///dev/video7", "v4l2://7"):
        address = find_source(name)
        assert (address.name, address.live, address.again) == ("/dev/video7", True, True)
        with pytest.raises(CameraError, match="no camera at /dev/video7"):
            address.open()


@pytest.mark.parametrize(
    "name", ["csi://0", "videotestsrc ! appsink", "gst:videotestsrc", "gst://videotestsrc ! fakesink"]
)
def test_without_gstreamer_the_package_is_named(name, monkeypatch):
    address = find_source(name)
    assert address.live and address.again
    registry = types.SimpleNamespace(getBackends=lambda: [cv2.CAP_FFMPEG])
    monkeypatch.setattr(cv2, "videoio_registry", registry)
    with pytest.raises(BackendMissing, match="apt install python3-opencv.*--system-site-packages"):
        address.open()


def test_the_pipeline_of_a_csi_camera():
    pipeline = csi_pipeline(1, SourceOptions(width_px=1920, height_px=1080, fps=29.97))
    assert pipeline.startswith(
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=29970/1000 ! nvv"
    )
    assert pipeline.endswith("appsink max-buffers=1 drop=true sync=false")


TIMES_S = [0, 0.03, 0.07, 0.5, 0.52, 1.0, 1.033, 2.5, 2.6]


@pytest.mark.parametrize(
    "name, codec", [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.ts", "libx264"), ("a.avi", "mpeg4")]
)
def test_files_keep_their_own_times(tmp_path, name, codec):
    frames = list(open_source(write_numbers(tmp_path / name, TIMES_S, codec=codec)))
    assert [f.t_s for f in frames] == pytest.approx(TIMES_S, abs=2e-3)
    assert [frame_number(f.image) for f in frames] == list(range(9))


def test_a_phone_held_upright(tmp_path):
    level, upright = (write_numbers(tmp_path / f"{turned}.mp4", TIMES_S, turned=turned) for turned in (False, True))
    for one, other in zip(open_source(level), open_source(upright)):
        np.testing.assert_array_equal(np.rot90(one.image, -1), other.image)


def test_recordings_put_one_behind_another_begin_anew(tmp_path):
    data = b"".join(write_numbers(tmp_path / f"{i}.ts", TIMES_S, first=i).read_bytes() for i in (100, 200))
    (tmp_path / "both.ts").write_bytes(data)
    frames = list(open_source(tmp_path / "both.ts"))
    assert [frame_number(f.image) for f in frames] == [*range(100, 109), *range(200, 209)]
    assert [f.t_s for f in frames] == pytest.approx(TIMES_S * 2, abs=2e-3)
    assert [f.seq for f in frames if f.begins] == [9]


def test_a_clock_that_jumps():
    stamps = Stamps("cam", own=True)
    given = [stamps.stamp(own_s, 100 + i) for i, own_s in enumerate([5.0, 5.1, 5.05, 4000.0, 4000.1, 1.0, None])]
    assert given == [
        (5.0, False),
        (5.1, False),
        (5.05, False),
        (4000.0, False),
        (4000.1, False),
        (1.0, True),
        (2.0, False),
    ]


def test_frames_without_stamps():
    stamps = Stamps("cam", own=True)
    assert stamps.stamp(None, 10.0) is None and stamps.stamp(0.5, 10.1) == (0.5, False)
    stamps = Stamps("cam", own=True)
    assert [stamps.stamp(None, float(i)) for i in range(12)][8:] == [None, (9.0, False), (10.0, False), (11.0, False)]
    assert Stamps("cam", own=False).stamp(0.5, 10.0) == (10.0, False)


@pytest.mark.parametrize("rate, told", [(1.0, False), (1.2, False), (3.0, True), (0.5, True)])
def test_a_camera_whose_clock_does_not_run_as_time_does_is_told_once(caplog, rate, told):
    stamps = Stamps("cam", own=True)
    with caplog.at_level(logging.WARNING):
        for i in range(400):
            stamps.stamp(i / 10 * rate if i > 5 else 0.0, 100 + i / 10)
    assert [f"run at {rate:.2f} times real time" in message for message in caplog.messages] == [True] * told


def test_who_cannot_decode_as_fast_as_frames_come_passes_some_over():
    """Frames come every 40 ms, every tenth a key frame, and are decoded in 60 ms."""
    catch_up, now_s, decoded, ages_s = CatchUp(), 0.0, [], []
    for number in range(1000):
        came_s = max(now_s, 0.04 * number)
        skip = catch_up.skip(now_s, came_s, key=number % 10 == 0)
        now_s = came_s if skip else came_s + 0.06
        if not skip:
            decoded.append(number)
            ages_s.append(now_s - 0.04 * number)
    assert max(ages_s) < 1.0 and 500 < len(decoded) < 800
    assert all(new % 10 == 0 for old, new in zip(decoded, decoded[1:]) if new != old + 1)


def test_who_keeps_up_misses_nothing():
    catch_up, now_s = CatchUp(), 0.0
    for number in range(1000):
        came_s = max(now_s, 0.04 * number, 20.0 if number < 500 else 0.0)  # half of it comes at once, after a stall
        assert not catch_up.skip(now_s, came_s, key=False)
        now_s = came_s + 0.002
