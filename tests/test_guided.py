"""Guided recording: clips of an action after countdowns, and how much moved in them."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import shared_folder
from patient import VLF_EDGE

from vlf_edge import Plan, VideoWriter, enrol, open_source
from vlf_edge.cli import main
from vlf_edge.enrolment.reading import Reader
from vlf_edge.enrolment.recording import Recorder, least_seconds, usual_seconds
from vlf_edge.types import Frame
from vlf_edge.video.motion_energy import STILL, how_much, moved_between

GOLDEN = Path(__file__).parent / "golden" / "format2-fp32.plan"
SIZE = "fps=12&width=96&height=72"


def nod(seconds: float, seed: int = 1) -> str:
    return f"test://motion?label=nod&seed={seed}&seconds={seconds}&{SIZE}"


def videos(folder: Path) -> dict[str, int]:
    """{name: how many frames} of the videos in a folder."""
    return {path.name: sum(1 for _ in open_source(path)) for path in sorted(folder.iterdir())}


def test_what_moves_is_that_which_changes():
    image = np.full((40, 50, 3), 100, np.uint8)
    moved = image.copy()
    moved[:10, :10] = 130  # a hand
    noisy = (image + np.random.default_rng(0).integers(-2, 3, image.shape)).astype(np.uint8)
    speck = image.copy()
    speck[0, 0] = 255  # one pixel is no motion
    found = [moved_between(image, other) for other in (image, noisy, speck, moved)]
    assert found[0] == found[2] == 0 and 0 < found[1] < STILL and found[3] == 30
    assert [how_much(one) for one in (found[1], 10, 30, 99)] == ["nothing", "little", "some", "much"]


def test_a_recorder_counts_down_and_takes_what_comes_then():
    manifest = Plan.open(GOLDEN).manifest
    recorder = Recorder(manifest, seconds=2.0, countdown_s=1.0)
    assert recorder.doing == ""
    takes, told = [], []
    for n, frame in enumerate(open_source(nod(9))):
        if (take := recorder.see(Frame(frame.image, 50 + frame.t_s, n, 0.0))) is not None:
            takes.append(take)
        told.append(recorder.doing)
    first, second = takes[:2]
    assert [len(take.frames) for take in takes[:2]] == [25, 25] and first.fps == pytest.approx(12)
    assert [first.frames[0].seq, second.frames[0].seq] == [12, 49]
    assert told[0] == "in 1" and told[12] == "now, for 2.0 s" and told[30] == "now, for 0.5 s"
    assert usual_seconds(manifest) > least_seconds(manifest)


@pytest.mark.parametrize("how", ["begins", "back in time"])
def test_a_clip_holds_nothing_of_before_an_interruption(how):
    recorder = Recorder(Plan.open(GOLDEN).manifest, seconds=2.0, countdown_s=0.5)
    image = np.zeros((72, 96, 3), np.uint8)
    for n in range(20):
        assert recorder.see(Frame(image, 5 + n / 12, n, 0.0)) is None
    assert recorder.recording
    t_s = 60.0 if how == "begins" else 1.0
    assert recorder.see(Frame(image, t_s, 20, 0.0, begins=how == "begins")) is None and recorder.doing == "in 1"


def test_what_it_says_of_a_clip_is_what_enrolling_will_say():
    """Of the frames themselves, to the bit; the file has gone through a codec."""
    plan = Plan.open(GOLDEN)
    recorder = Recorder(plan.manifest, seconds=2.0, countdown_s=0.0)
    take = next(take for frame in open_source(nod(3)) if (take := recorder.see(frame)) is not None)
    with Reader(plan, ("features",)) as reader:
        assert take.moved == reader.read([(frame.image, frame.t_s) for frame in take.frames]).moved


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """The folder of a plan's clips: two of an action, one of nothing."""
    with shared_folder(tmp_path_factory, "guided") as folder:
        if not (folder / "clips").exists():
            words = ["-o", str(folder / "clips"), "--countdown", "0.5", "--plan", str(GOLDEN)]
            assert main(["capture", nod(8), "--label", "yes", "--count", "2", *words]) == 0
            still = save_still(folder / "still.avi")
            assert main(["capture", str(still), "--label", "nothing", "--count", "1", *words]) == 0
        return folder / "clips"


def save_still(path: Path) -> Path:
    with VideoWriter(path, 12) as writer:
        for _ in range(60):
            writer.write(np.full((72, 96, 3), 90, np.uint8))
    return path


def test_clips_lie_in_a_folder_of_their_label_and_can_be_enrolled(recorded, tmp_path):
    assert [*videos(recorded / "yes")] == ["0001.mp4", "0002.mp4"]
    plan = enrol(GOLDEN, {"yes": recorded / "yes"}, tmp_path / "mine.plan", none=recorded / "nothing")
    assert plan.manifest.head.record["labels"]["yes"]["clips"] == 2


def test_each_clip_is_told_with_how_much_moved_and_nothing_is_overwritten(tmp_path, capsys):
    words = ["-o", str(tmp_path / "c"), "--countdown", "0", "--plan", str(GOLDEN), "--seconds", "2"]
    place = tmp_path / "c" / "wave"
    place.mkdir(parents=True)
    (place / "0007.mp4").write_bytes(b"mine")
    assert main(["capture", nod(5), "--label", "wave", "--count", "3", *words]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"{place}/0008.mp4", f"{place}/0009.mp4"]
    assert all(line.endswith(" of 255)") and "nothing" not in line for line in lines)
    assert "ended after 2 of 3 clips" in told.err and "nothing moves" not in told.err
    assert (place / "0007.mp4").read_bytes() == b"mine"
    still = save_still(tmp_path / "still.avi")
    assert main(["capture", str(still), "--label", "wave", "--count", "1", *words]) == 0
    told = capsys.readouterr()
    assert told.out == f"{place}/0010.mp4  nothing moved (0 of 255)\n"
    assert "nothing moves in" in told.err and "enrol would leave it out" in told.err
    assert main(["capture", str(still), "--label", "nothing", "--count", "1", *words]) == 0
    assert "enrol" not in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_complete(tmp_path):
    words = ["capture", nod(60), "--realtime", "--label", "yes", "--count", "9", "--countdown", "0", "--seconds", "1.6"]
    process = subprocess.Popen(
        [*VLF_EDGE, *words, "--plan", str(GOLDEN)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout.readline().startswith("clips/yes/0001.mp4  ")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert (process.returncode, err.splitlines()[-1]) == (130, "vlf-edge: interrupted")
    kept = videos(tmp_path / "clips" / "yes")
    assert kept["0001.mp4"] == 21 and {*kept.values()} == {21} and len(kept) == 1 + len(out.splitlines())


def test_the_window_shows_the_countdown_and_q_ends_it(tmp_path, monkeypatch, capsys):
    shown: list[np.ndarray] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "imshow", lambda title, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda ms: ord("q") if len(shown) == 60 else -1)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append(None))
    words = ["--label", "yes", "--show", "--countdown", "1", "--seconds", "2", "--plan", str(GOLDEN)]
    assert main(["capture", nod(30), *words, "-o", str(tmp_path)]) == 0
    assert "ended after 1 of 10 clips" in capsys.readouterr().err and [*videos(tmp_path / "yes")] == ["0001.mp4"]
    assert len(shown) == 61 and shown[-1] is None
    assert (np.abs(shown[3][:12].astype(int) - next(iter(open_source(nod(1)))).image[:12]) > 20).any()


MISTAKES = {
    "no folder's name": (["--label", "a/b"], "it names the clips' folder too"),
    "a dot": (["--label", ".a"], "it names the clips' folder too"),
    "no label": (["--label", "\x1b"], "a label is"),
    "too short": (["--label", "a", "--seconds", "1"], "a clip must hold one window of"),
    "too long": (["--label", "a", "--countdown", "99"], "--countdown 99; expected 1 or more"),
    "a plan without a label": (["--plan", "x"], "give its --label too"),
    "ended": (["--label", "a", "--seconds", "9"], "ended before a clip of 9 s was full"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_get_one_sentence(what, tmp_path, capsys):
    words, sentence = MISTAKES[what]
    assert main(["capture", nod(2), "-o", str(tmp_path / "c"), *words]) == 1
    assert sentence in capsys.readouterr().err and not [*tmp_path.rglob("*.mp4")]
