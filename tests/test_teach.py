"""vlf-edge teach, with a real terminal (a pseudo-terminal) and a stand-in for OpenCV's window."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from patient import VLF_EDGE

from vlf_edge import CameraError, Plan, Runtime, open_source
from vlf_edge.cli import main
from vlf_edge.video.sources import Source

GOLDEN = Path(__file__).parent / "golden" / "format2-fp32.plan"
NOD = "test://motion?label=nod&seconds=100000&fps=12&width=96&height=72"
WITHIN_S = 60  # of a machine that is busy


class Terminal:
    """A program on a terminal of its own, as a shell starts it."""

    def __init__(self, *words: str, cwd: Path):
        self._ours, self._theirs = pty.openpty()
        self.before = termios.tcgetattr(self._theirs)
        self.said = ""
        self.process = subprocess.Popen(
            [*VLF_EDGE, *words],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=lambda: (fcntl.ioctl(0, termios.TIOCSCTTY, 0), signal.signal(signal.SIGINT, signal.SIG_DFL)),
            env={**os.environ, "COLUMNS": "150"},
        )

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait_for(self, pattern: str) -> None:
        """Reads on until it was said, from here on."""
        until_s, begun = time.monotonic() + WITHIN_S, len(self.said)
        while not re.search(pattern, self.said[begun:]):
            assert time.monotonic() < until_s, self.said[-2000:]
            self._read(0.5)

    def end(self) -> int:
        """The exit code."""
        until_s = time.monotonic() + WITHIN_S
        while self.process.poll() is None:
            assert time.monotonic() < until_s, self.said[-2000:]
            self._read(0.1)
        self._read(0.1)
        return self.process.returncode

    @property
    def modes(self) -> list:
        return termios.tcgetattr(self._theirs)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def _read(self, timeout_s: float) -> None:
        if select.select([self._ours], [], [], timeout_s)[0]:
            self.said += os.read(self._ours, 65536).decode(errors="replace")


@pytest.fixture
def terminal(tmp_path):
    """A program that teaches two labels, and waits for keys."""
    words = ("teach", str(GOLDEN), NOD, "--labels", "yes", "no", "-o", "mine.plan", "--countdown", "0.5")
    one = Terminal(*words, cwd=tmp_path)
    try:
        one.wait_for(r"q quit[\s\S]*1 yes 0  2 no 0  0 nothing 0")
        yield one
    finally:
        one.close()


def test_keys_teach_undo_and_save_and_the_terminal_is_given_back(terminal, tmp_path):
    echo = termios.ECHO | termios.ICANON
    assert terminal.before[3] & echo == echo and terminal.modes[3] & echo == 0 and terminal.modes[3] & termios.ISIG
    terminal.press("1")
    terminal.wait_for(r"yes: now, for [\s\S]*yes: example 1, (some|much) moved .*learned in \d+ ms[\s\S]*yes \d+%")
    assert re.search(r"yes in 1[^\a]*\a[^\a]*yes: now, for [^\a]*\a[^\a]*yes: example 1", terminal.said)  # it rings
    for key, said in [
        ("2", "no: example 1"),
        ("u", "undone: an example of no"),
        ("nwave\r", "'wave' has the key 3"),
        ("3", "wave: example 1"),
        ("0", "nothing: example 1"),
        ("q", "not saved yet: s saves, q once more leaves without"),
        ("s", r"saved mine.plan: yes, wave, unknown"),
        ("q", r"yes   1 clip\(s\), nothing to judge by"),
    ]:
        terminal.press(key)
        terminal.wait_for(said)
    assert terminal.end() == 0 and terminal.modes == terminal.before
    with Runtime(tmp_path / "mine.plan") as runtime:
        assert runtime.labels == ("yes", "wave", "unknown")


@pytest.mark.parametrize(("how", "code"), [("ctrl-c", 130), ("sigterm", 143)])
def test_a_signal_ends_it_and_gives_the_terminal_back(terminal, tmp_path, how, code):
    terminal.press("1")
    terminal.wait_for("yes: example 1")
    if how == "ctrl-c":
        terminal.press("\x03")
    else:
        terminal.process.terminate()
    assert terminal.end() == code and terminal.modes == terminal.before
    assert re.search(r"vlf-edge: interrupted; 1 example\(s\) taught since were not saved\s*$", terminal.said)
    assert not [*tmp_path.iterdir()]


class Screen:
    """OpenCV's window. keys: what is pressed once the picture shows so many frames."""

    def __init__(self, monkeypatch, keys: dict[int, str]):
        self.pictures: list[np.ndarray] = []
        monkeypatch.setenv("DISPLAY", ":0")
        monkeypatch.setattr(cv2, "imshow", lambda title, picture: self.pictures.append(picture))
        monkeypatch.setattr(cv2, "waitKey", lambda ms: ord(keys.get(len(self.pictures), "\0")) or -1)
        monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)


def test_keys_of_the_window_and_what_it_shows(monkeypatch, tmp_path, capsys):
    """Without a terminal; at the end of the source what was taught is saved."""
    screen = Screen(monkeypatch, {5: "1", 60: "0"})
    output = tmp_path / "mine.plan"
    words = ["teach", str(GOLDEN), NOD.replace("100000", "10").replace("96", "192"), "--show", "--labels", "yes"]
    assert main([*words, "-o", str(output), "--countdown", "0.5"]) == 0
    told = capsys.readouterr()
    assert "yes: example 1" in told.err and "nothing: example 1" in told.err and "has ended" in told.err
    assert f"saved {output}: yes, unknown" in told.err and "yes  1 clip(s)" in told.out
    assert "one clip of nothing sets no threshold for unknown: give more of them" in told.err
    assert Plan.open(output).manifest.labels == ("yes", "unknown")
    assert len(screen.pictures) == 120
    legend, bar = screen.pictures[0][:10], screen.pictures[-1][-10:]
    assert legend.std() > 10 and bar.std() > 10


class FailingCamera(Source):
    """Frames of a video, and then the cable is pulled."""

    def __init__(self):
        super().__init__("camera")
        self._inner = open_source(NOD.replace("100000", "5"))

    def read(self):
        frame = self._inner.read()
        if frame is None:
            raise CameraError("the camera is gone")
        return frame


def test_what_was_taught_is_saved_when_the_camera_fails(monkeypatch, tmp_path, capsys):
    Screen(monkeypatch, {5: "1"})
    monkeypatch.setattr("vlf_edge.video.open_source", lambda *what: FailingCamera())
    output = tmp_path / "mine.plan"
    assert main(["teach", str(GOLDEN), "0", "--show", "--labels", "yes", "-o", str(output), "--countdown", "0"]) == 4
    told = capsys.readouterr().err
    assert f"saved {output}: yes, unknown" in told and told.endswith("vlf-edge: the camera is gone\n")
    assert Plan.open(output).manifest.labels == ("yes", "unknown")


def test_without_a_terminal_or_a_screen_it_says_so(monkeypatch, tmp_path, capsys):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    words = ["teach", str(GOLDEN), NOD, "-o", str(tmp_path / "x.plan")]
    mistakes = {
        (): "keys are read from a terminal, and stdin is none; give --serve [HOST:]PORT",
        ("--serve-token-file", "x"): "give --serve [HOST:]PORT too",
        ("--show",): "--show needs a screen and there is none here; leave --show out",
        ("--show", "--false-accepts", "2"): "false_accepts is 2",
    }
    for more, said in mistakes.items():
        assert main([*words, *more]) == 1
        assert said in capsys.readouterr().err
    Screen(monkeypatch, {})
    for more, said in {
        ("--seconds", "1"): "an example is to be 1 s long; expected from 1.5 s",
        ("--countdown", "-1"): "the countdown is -1 s",
        ("--labels", *"abcdefghij"): "there are 10 labels and 9 keys",
    }.items():
        assert main([*words, "--show", *more]) == 1
        assert said in capsys.readouterr().err
    assert main(["teach", str(GOLDEN.parent / "format1-fp32.plan"), *words[2:], "--show"]) == 1
    assert "nothing can be enrolled on" in capsys.readouterr().err
