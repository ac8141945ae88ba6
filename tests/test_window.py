"""The window, against a stand-in for OpenCV's: no machine that tests has a screen."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vlf_edge import BackendMissing, Frame, Prediction, VlfError, WindowSink


class Screen:
    """What OpenCV shows. shown: {title: picture}. keys: what is pressed at each of the next calls."""

    def __init__(self, monkeypatch):
        self.shown: dict[str, np.ndarray] = {}
        self.keys: list[int] = []
        monkeypatch.setenv("DISPLAY", ":0")
        monkeypatch.setattr(cv2, "imshow", self._show)
        monkeypatch.setattr(cv2, "waitKey", lambda ms: self.keys.pop(0) if self.keys else -1)
        monkeypatch.setattr(cv2, "destroyAllWindows", self.shown.clear)

    def _show(self, title, picture):
        assert picture.dtype == np.uint8 and picture.ndim == 3
        self.shown[title] = picture


def frame(stream="main"):
    return Frame(np.full((240, 320, 3), 200, np.uint8), 0.0, 0, 0.0, stream=stream)


def ok(stream="main"):
    return Prediction("ok", 0.0, 1.0, 0, 1.0, "wave", 0.9, stream=stream)


def test_each_stream_has_a_window_with_its_latest_decision(monkeypatch):
    screen = Screen(monkeypatch)
    with WindowSink() as window:
        window.write(frame(), ok())
        window.write(frame("door\x1b"), None)
        window.write(None, Prediction("no_signal", 0.0, 1.0, -1, 0.0))
        assert set(screen.shown) == {"vlf_edge", "vlf_edge: door\\x1b"}
        assert screen.shown["vlf_edge"].min() < 100 and screen.shown["vlf_edge: door\\x1b"].min() == 200
        window.write(frame("door\x1b"), ok("door\x1b"))
        assert screen.shown["vlf_edge: door\\x1b"].min() < 100
    assert not screen.shown


@pytest.mark.parametrize("key", [ord("q"), 27])
def test_a_key_ends_the_run(monkeypatch, key):
    screen = Screen(monkeypatch)
    window = WindowSink()
    for screen.keys, wanted in (([ord("x")], True), ([key], False), ([ord("x")], False)):
        window.write(frame(), None)
        assert window.wants_more == wanted


def test_refusals(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(VlfError, match="--show needs a screen"):
        WindowSink()
    Screen(monkeypatch)

    def without(title, picture):
        raise cv2.error("The function is not implemented. Rebuild the library with GTK+ 2.x")

    monkeypatch.setattr(cv2, "imshow", without)
    with pytest.raises(BackendMissing, match="built without windows; pip install opencv-python"):
        WindowSink().write(frame(), None)
