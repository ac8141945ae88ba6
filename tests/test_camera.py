"""The V4L2 camera, against a strict stand-in for the device: no machine that tests has one."""

import threading
import time

import numpy as np
import pytest

from vlf_edge import CameraError
from vlf_edge.video.sources import CameraSource


class FakeDevice:
    """What cv2.VideoCapture does with a camera. Using it after release, or releasing it in a read, is what crashes the
    real one: here it fails the test."""

    def __init__(self):
        self.frames_left, self.reading, self.released = 1000, False, 0
        self.blocked = threading.Event()
        self.blocked.set()
        self.settings = {}

    def open(self, device, backend):
        self.opened_with = (device, backend)
        return self

    def isOpened(self):
        return True

    def set(self, prop, value):
        self.settings[prop] = value

    def get(self, prop):
        assert not self.released
        return 25.0

    def read(self):
        assert not self.released, "read after release"
        self.reading = True
        self.blocked.wait(60)
        self.reading = False
        self.frames_left -= 1
        return (True, np.full((48, 64, 3), 7, np.uint8)) if self.frames_left >= 0 else (False, None)

    def release(self):
        assert not self.reading, "released under a running read"
        self.released += 1


@pytest.fixture
def device(monkeypatch, tmp_path):
    import cv2

    fake = FakeDevice()
    fake.path = tmp_path / "video0"
    fake.path.write_text("")
    monkeypatch.setattr(cv2, "VideoCapture", fake.open)
    return fake


def test_frames_are_stamped_on_arrival(device):
    import cv2

    before_s = time.monotonic()
    with CameraSource(str(device.path)) as camera:
        frames = [camera.read() for _ in range(3)]
    assert device.opened_with == (str(device.path), cv2.CAP_V4L2)
    assert device.settings == {cv2.CAP_PROP_BUFFERSIZE: 1}, "an old frame from a queue would count as new"
    assert (camera.live, camera.fps) == (True, 25.0)
    assert [frame.seq for frame in frames] == [0, 1, 2]
    assert before_s <= frames[0].t_s <= frames[1].t_s <= frames[2].t_s <= time.monotonic()
    assert device.released >= 1


def test_an_unplugged_camera_is_an_error_not_an_end(device):
    device.frames_left = 2
    camera = CameraSource(str(device.path))
    with pytest.raises(CameraError, match="gives no more frames: unplugged"):
        list(camera)


def test_close_during_a_read_leaves_the_release_to_the_reader(device):
    camera, ended = CameraSource(str(device.path)), []
    device.blocked.clear()
    reader = threading.Thread(target=lambda: ended.append(list(camera)), daemon=True)
    reader.start()
    while not device.reading:
        time.sleep(0.001)
    camera.close()
    assert device.released == 0
    device.blocked.set()
    reader.join(60)
    assert ended == [[]] and device.released >= 1


def test_closing_twice_and_reading_after_is_quiet(device):
    camera = CameraSource(str(device.path))
    camera.close()
    camera.close()
    assert camera.read() is None
