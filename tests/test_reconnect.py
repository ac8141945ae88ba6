"""A real RTSP server that is killed, frozen and brought back: decisions resume, no window is mixed, nothing is left."""

from __future__ import annotations

import os
import threading
import time

import pytest
from clocks import eventually
from number_model import ERA, era_of, mixed, number_recognizer
from rtsp_server import RtspServer
from test_accounting import adds_up

from vlf_edge import Limits
from vlf_edge.runtime.pipeline import Pipeline
from vlf_edge.video import find_source

pytest.importorskip("av", reason="PyAV reads network cameras")

SIDE = {"width": 240, "height": 240}
# An idle machine takes a second; here others use it too. benchmarks/soak.py measures.
RESUMES_S = 60.0
KILLS = 10


class Viewer:
    """Takes every step of a pipeline that watches one address, with a window of 0.4 s."""

    def __init__(self, url: str, stall_timeout_s: float = 1.0):
        self.recognizer, self.windows = number_recognizer()
        self.predictions, self.error, self._arrived = [], None, threading.Condition()
        self.pipeline = Pipeline(self.recognizer, find_source(url), limits=Limits(stall_timeout_s=stall_timeout_s))
        self._thread = threading.Thread(target=self._view, daemon=True)
        self._thread.start()

    def _view(self) -> None:
        try:
            for step in self.pipeline:
                with self._arrived:
                    self.predictions.append(step.prediction)
                    self._arrived.notify_all()
        except BaseException as error:
            self.error = error

    def until(self, state: str, timeout_s: float = RESUMES_S) -> float:
        """Waits for the next prediction of that state; returns how long, in seconds."""
        began_s, seen = time.monotonic(), len(self.predictions)
        with self._arrived:
            found = self._arrived.wait_for(
                lambda: any(prediction.state == state for prediction in self.predictions[seen:]), timeout_s
            )
        assert found, f"no {state} within {timeout_s} s: {self.report()}"
        return time.monotonic() - began_s

    def report(self) -> dict:
        return self.pipeline.reports()["main"]

    def close(self) -> None:
        self.pipeline.close()
        self._thread.join(60)
        assert self.error is None and not self._thread.is_alive()
        assert not any(map(mixed, self.windows)), [window for window in self.windows if mixed(window)]
        for prediction in self.predictions:
            assert (prediction.label is not None) == (prediction.state == "ok")
        counts = self.recognizer.total().counts
        assert adds_up(counts) and counts["waiting"] == 0


@pytest.fixture
def view():
    """Makes viewers, and sees to it that they leave no thread and no descriptor."""
    made, before = [], open_things()

    def start(url: str, **options) -> Viewer:
        made.append(Viewer(url, **options))
        return made[-1]

    yield start
    for one in made:
        one.close()
    nothing_left(before)


def nothing_left(before: tuple[int, int]) -> None:
    """No more threads and no more descriptors than before, once FFmpeg has let go of a read by its own time limit."""
    eventually(
        lambda: all(now <= then for now, then in zip(open_things(), before)),
        f"{before} threads and descriptors before, now {open_things()}",
    )


def open_things() -> tuple[int, int]:
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("vlf-")]
    links = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return len(ours), sum("socket:" in link for link in links)


def test_killed_ten_times_and_brought_back_also_with_another_size_and_rate(view):
    with RtspServer(**SIDE, fps=25) as server:
        viewer = view(server.url, stall_timeout_s=30.0)  # a busy machine's pauses are not counted
        viewer.until("ok")
        changes = [{"fps": 25}, {"width": 320, "height": 320, "fps": 15}, {"width": 160, "height": 160, "fps": 40}]
        at_the_start = open_things()
        for kill in range(1, KILLS + 1):
            server.kill()
            viewer.until("no_signal")
            server.start(first=kill * ERA, **changes[kill % len(changes)])
            viewer.until("ok")
            assert era_of(viewer.windows[-1][0]) == kill
        assert viewer.report()["reconnects"] == KILLS and viewer.report()["state"] == "live"
        nothing_left(at_the_start)


def test_frozen_and_thawed(view):
    with RtspServer(**SIDE) as server:
        viewer = view(server.url)
        for _ in range(2):
            viewer.until("ok")
            server.freeze()
            viewer.until("no_signal")
            viewer.until("no_signal")
            server.thaw()
        viewer.until("ok")
        assert viewer.report()["last_error"] is not None


def test_closed_at_the_start(view):
    with RtspServer(**SIDE) as server:
        server.kill()
        viewer = view(server.url)
        viewer.until("no_signal")
        server.start()
        viewer.until("ok")
        assert viewer.predictions[0].state == "no_signal" and "refuses the connection" in viewer.report()["last_error"]


def test_a_wrong_password_is_told_tried_seldom_and_never_shown(view, caplog):
    with RtspServer(**SIDE, user="viewer", password="right") as server:
        viewer = view(server.url_of("viewer", "wr0ng"))
        viewer.until("no_signal")
        eventually(lambda: viewer.report()["last_error"] is not None)
        assert "refuses the user or the password" in viewer.report()["last_error"]
        eventually(lambda: caplog.records)  # which are written after the prediction is on its way
    assert "wr0ng" not in caplog.text and "wr0ng" not in str(viewer.report())
    assert len(caplog.records) == 1
