"""demos/people.py, with whatever moves for a detector, and a tracker that follows one thing where none is installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_toy_plan

from vlf_edge import VideoWriter, open_source

DEMO = Path(__file__).resolve().parents[1] / "demos" / "people.py"
TRACKER = all(importlib.util.find_spec(name) for name in ("supervision", "trackers"))
STANDS_IN = {
    "supervision.py": "class Detections:\n"
    "    def __init__(self, *, xyxy, confidence, class_id):\n"
    "        assert xyxy.shape[1:] == (4,) and len(xyxy) == len(confidence) == len(class_id)\n"
    "        self.xyxy = xyxy\n",
    "trackers.py": "import numpy as np\n"
    "class ByteTrackTracker:\n"
    "    def __init__(self, *, frame_rate, track_activation_threshold, high_conf_det_threshold):\n"
    "        assert frame_rate > 0\n"
    "    def update(self, detections):\n"
    "        detections.tracker_id = np.where(np.arange(len(detections.xyxy)) == 0, 7, -1)\n"
    "        return detections\n",
}


def run(*words: object, path: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, str(DEMO), *map(str, words)]
    paths = [str(DEMO.parents[1]), *([str(path)] if path else [])]
    environment = {"PYTHONPATH": ":".join(paths), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)


@pytest.fixture
def street(tmp_path, images) -> Path:
    """Somebody walks through a picture that stands still."""
    path = tmp_path / "street.avi"
    with VideoWriter(path, 20.0) as video:
        for i in range(60):
            frame = images[0].repeat(4, axis=0).repeat(4, axis=1) // 4
            frame[60:140, 2 * i + 20 : 2 * i + 60] = (200, 120, 40)
            video.write(frame)
    return path


def test_every_track_is_decided_about_by_itself(tmp_path, street):
    plan = write_toy_plan(tmp_path / "toy.plan").path
    if not TRACKER:
        for name, code in STANDS_IN.items():
            (tmp_path / name).write_text(code)
    words = ("--engine", plan, "--backend", "fake", "--source", street, "--detector", "moving")
    done = run(*words, "--save", tmp_path / "out.avi", path=None if TRACKER else tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["state"] for line in lines} >= {"warming", "ok"}
    assert all(line["stream"] == f"main/{line['track']}" for line in lines)
    assert len(list(open_source(tmp_path / "out.avi"))) == 60
    assert "decisions" in done.stderr


def test_what_is_missing_is_one_sentence(tmp_path, street):
    plan = write_toy_plan(tmp_path / "toy.plan").path
    for name in ("supervision.py", "trackers.py"):
        (tmp_path / name).write_text("raise ImportError('absent')\n")
    words = ("--engine", plan, "--backend", "fake", "--source", street)
    done = run(*words, "--detector", "moving", path=tmp_path)
    said = "people.py: a tracker is needed (absent); pip install supervision trackers\n"
    assert (done.returncode, done.stderr) == (1, said)
