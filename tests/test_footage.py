"""The benchmark's virtual camera does what its labels say, stays in the picture, and every window is counted once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import footage
import numpy as np
import pytest
from conftest import toy_manifest, write_toy_plan
from footage import CLASSES, MIN_VIEW_PX, PLAYING, STEADIED, STILL, Camera, CameraPath
from numbered_clips import frame_numbers, write_clip

from vlf_edge import Prediction, Runtime, Sampling, TensorSpec
from vlf_edge import synthetic as motion
from vlf_edge.errors import PlanMismatch, SourceError
from vlf_edge.video.sampler import Sampler

SPAN_S = 2.0
TURNING = ("approach", "recede", "clockwise", "counter-clockwise")


def any_picture(width: int = 340, height: int = 256, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8 of large and small blobs that can be followed."""
    rng = np.random.default_rng(seed)
    blobs = [rng.integers(0, 256, (height // size, width // size, 3), np.uint8) for size in (16, 4)]
    large, small = (cv2.resize(some, (width, height), interpolation=cv2.INTER_CUBIC) for some in blobs)
    return cv2.addWeighted(large, 0.5, small, 0.5, 0)


def any_camera(label: str, seed: int = 0, width: int = 340, height: int = 256) -> Camera:
    rng = np.random.default_rng(seed)
    return Camera.place(CameraPath.draw(label, SPAN_S, rng), width, height, rng)


def follow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(x, y, log scale, angle) by which the content moved between two views, about their centre, in short sides:
    found by following corners, which knows nothing of any camera."""
    grey = [cv2.cvtColor(cv2.resize(view, (160, 120)), cv2.COLOR_BGR2GRAY) for view in (before, after)]
    points = cv2.goodFeaturesToTrack(grey[0], 100, 0.01, 5)
    moved, found, _ = cv2.calcOpticalFlowPyrLK(*grey, points, None, winSize=(21, 21), maxLevel=3)
    matrix, _ = cv2.estimateAffinePartial2D(points[found == 1], moved[found == 1])
    height, width = grey[0].shape
    centre = np.array([width - 1, height - 1]) / 2
    x, y = (matrix[:, :2] @ centre + matrix[:, 2] - centre) / min(width, height)
    return np.array([x, y, np.log(np.hypot(matrix[0, 0], matrix[1, 0])), np.arctan2(matrix[1, 0], matrix[0, 0])])


def steps_of(views: list[np.ndarray]) -> np.ndarray:
    """(n - 1, 4): how the content moves from each view to the next."""
    return np.array([follow(*pair) for pair in zip(views, views[1:])])


def name_motion(views: list[np.ndarray]) -> str:
    """The class of what the views show, told from their content by a handful of rules."""
    steps = steps_of(views)
    net, path = steps.sum(axis=0), np.abs(steps).sum(axis=0)
    if max(path[:2]) > 0.25 and np.abs(net[:2]).max() < 0.6 * max(path[:2]):
        return "shake" if path[0] > path[1] else "nod"
    axis = int(np.argmax(np.abs(net) / (0.2, 0.2, 0.3, 0.5)))
    if np.abs(net)[axis] < 0.1:
        return "still"
    return (("left", "right"), ("up", "down"), ("recede", "approach"), ("counter-clockwise", "clockwise"))[axis][
        int(net[axis] > 0)
    ]


def test_the_classes_are_those_of_rendered_motion_that_a_camera_can_make():
    assert set(CLASSES) == set(motion.CLASSES) - {"open", "close"}


@pytest.mark.parametrize("label", CLASSES)
def test_the_content_moves_as_the_class_says(label):
    camera, picture = any_camera(label, seed=3), any_picture()
    steps = steps_of([camera.view(picture, t_s) for t_s in np.linspace(0, SPAN_S, 33)])
    net, furthest = steps.sum(axis=0), np.abs(np.cumsum(steps, axis=0)).max(axis=0)
    if label == "still":
        assert furthest.max() < 0.025
        return
    axis, way = footage.MOTIONS[label]
    if way == 0:
        least, most = footage.SWING
        assert least - 0.03 < furthest[axis] < 2 * most + 0.03
        assert (np.diff(np.sign(steps[:, axis])) != 0).sum() >= 2, "to and fro"
        others = np.delete(furthest, axis)
    else:
        least, most = footage.TRAVEL[axis]
        assert least - 0.05 < way * net[axis] < most + 0.05
        others = np.delete(np.abs(net), axis)
    # Turning and zooming carry along the little that the centre strays.
    assert others.max() < (0.12 if label in TURNING else 0.1)


def test_a_shift_agrees_with_phase_correlation():
    camera, picture = any_camera("left", seed=5), any_picture()
    calm = replace(camera.path, tremor=np.zeros(4), travel=camera.path.travel * (1, 0, 0, 0))
    camera = replace(camera, path=calm)
    times_s = (0.6, 1.0)
    views = [cv2.cvtColor(camera.view(picture, t_s), cv2.COLOR_BGR2GRAY).astype(np.float32) for t_s in times_s]
    (dx_px, dy_px), _ = cv2.phaseCorrelate(*views, cv2.createHanningWindow(camera.size_px, cv2.CV_32F))
    before, after = camera.path.poses(np.array(times_s))
    assert dx_px < -8 and abs(dy_px) < 1
    assert dx_px == pytest.approx((after - before)[0] * camera.size_px[1], abs=1)


@pytest.mark.parametrize("width, height", [(340, 256), (426, 240), (240, 426), (1280, 720)])
@pytest.mark.parametrize("label", CLASSES)
def test_no_view_leaves_the_picture(label, width, height):
    white = np.full((height, width, 3), 255, np.uint8)
    for seed in range(4):
        camera = any_camera(label, seed, width, height)
        view_width, view_height = camera.size_px
        corners = np.array([[0, 0, 1], [view_width - 1, 0, 1], [view_width - 1, view_height - 1, 1]], float).T
        spacings = []
        for t_s in np.random.default_rng(seed).uniform(0, SPAN_S, 20):
            matrix = camera.matrix(t_s)
            back = cv2.invertAffineTransform(matrix)
            assert ((back @ corners >= 0) & (back @ corners <= [[width - 1], [height - 1]])).all()
            spacings.append(np.hypot(*back[:, 0]))
            assert view_height * spacings[-1] > MIN_VIEW_PX - 1
            # Corners as the camera was placed by, against corners as its matrix has them.
            edges = np.array([[-0.5, -0.5, 1], [view_width - 0.5, view_height - 0.5, 1]]).T
            placed = camera.centre_px + camera.short_px * footage.footprint(camera.path.poses(np.array([t_s])))[0]
            assert np.allclose(back @ edges, placed[[0, 2]].T, atol=1.0)
        assert max(spacings) < 1.01, "nothing is left out between the pixels of a view"
        assert camera.view(white, t_s).min() == 255, "no border"


def test_a_path_that_does_not_fit_has_no_camera():
    assert any_camera("still", 0, 80, 80) is None and any_camera("still", 0, 2, 2) is None
    assert any_camera("approach", 0, 120, 90) is None and any_camera("still", 0, 120, 90) is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An image, a clip of 4 s that shows the same image, one of numbered frames, a short one, and a text."""
    folder = tmp_path_factory.mktemp("footage")
    write_clip(folder / "numbers.avi", frames=40, fps=10)
    write_clip(folder / "short.avi", frames=6, fps=10)
    (folder / "more").mkdir()
    cv2.imwrite(str(folder / "more" / "photo.png"), any_picture())
    writer = cv2.VideoWriter(str(folder / "more" / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (340, 256))
    for _ in range(40):
        writer.write(any_picture())
    writer.release()
    (folder / "notes.txt").write_text("nothing to see")
    return folder


def numbers(stretch: list[tuple[np.ndarray, float]]) -> list[int]:
    return frame_numbers(np.stack([picture for picture, _ in stretch]))


def test_footage_is_found_by_its_endings(folder, tmp_path):
    found = footage.find_footage([str(folder), str(folder / "notes.txt")])
    assert [Path(name).name for name in found] == ["film.avi", "photo.png", "numbers.avi", "short.avi", "notes.txt"]
    with pytest.raises(SourceError, match="holds no video and no image; known endings: .mp4"):
        footage.find_footage([str(tmp_path)])
    with pytest.raises(SourceError, match="nowhere is no file and no folder"):
        footage.find_footage([str(tmp_path / "nowhere")])


def test_stretches_are_whole_and_come_evenly_from_all_files(folder):
    names = [str(folder / name) for name in ("numbers.avi", "short.avi", "more/photo.png")]
    found = [stretch for _, stretch in footage.stretches(names, 8, SPAN_S, seed=2)]
    assert sorted(len(stretch) for stretch in found) in ([1] * 5 + [20] * 3, [1] * 6 + [20] * 2)
    for stretch in found:
        assert np.allclose([t_s for _, t_s in stretch], np.arange(len(stretch)) / 10)
        if len(stretch) > 1:
            first = numbers(stretch)[0]
            assert numbers(stretch) == list(range(first, first + 20))
    assert len({numbers(stretch)[0] for stretch in found if len(stretch) > 1}) > 1, "at random places"
    again = list(footage.stretches(names, 8, SPAN_S, seed=2))
    assert all(np.array_equal(a[0][0], b[0][0]) for a, (_, b) in zip(found, again))
    assert Counter(name for name, _ in again) in (
        dict(zip(names, share)) for share in ((3, 3, 2), (3, 2, 3), (2, 3, 3))
    )
    assert len(list(footage.stretches(names, 2, SPAN_S, seed=2))) == 2, "fewer than files"


def test_cutting_in_one_go_is_cutting_one_by_one(folder):
    name, starts_s = str(folder / "numbers.avi"), [0.0, 0.3, 0.3, 1.0, 2.5, 3.9]
    together = [numbers(stretch) for stretch in footage.cut(name, starts_s, 0.8)]
    assert together == [numbers(next(footage.cut(name, [start_s], 0.8))) for start_s in starts_s]
    assert together[1] == list(range(3, 11)) and together[-1] == [39]


def test_large_pictures_are_shrunk_and_others_left_alone():
    assert footage.shrunk(np.zeros((1440, 2000, 3), np.uint8)).shape == (720, 1000, 3)
    small = np.zeros((720, 900, 3), np.uint8)
    assert footage.shrunk(small) is small


class Follower:
    """In place of a Runtime: decides after K views by following their content, or always the same."""

    labels = motion.CLASSES

    def __init__(self, always: str | None = None):
        self.recognizer = SimpleNamespace(sampling=Sampling(8, SPAN_S))
        self.sampler = Sampler(self.recognizer.sampling)
        self.always, self.windows = always, 0

    def reset(self) -> None:
        self.sampler.reset()
        self.views = []

    def push(self, image: np.ndarray, t_s: float) -> Prediction | None:
        if self.sampler.accept(t_s) is None:
            return None
        self.views.append(image)
        state = "ok" if len(self.views) == 8 else "warming"
        self.windows += state == "ok"
        label = (self.always or name_motion(self.views)) if state == "ok" else None
        return Prediction(state, 0.0, t_s, 0, 0.0, label=label)


def no_progress(what: str, done: int, total: int) -> None:
    pass


def test_who_follows_the_content_is_right_and_all_windows_are_counted(folder):
    names = [str(folder / "more" / "photo.png"), str(folder / "more" / "film.avi")]
    follower = Follower()
    found = footage.measure(follower, names, 2, 0, no_progress)
    still, playing, steady = (found["kinds"][kind] for kind in (STILL, PLAYING, STEADIED))
    assert still["windows"] == 2 * len(CLASSES) and playing["windows"] == len(CLASSES) - 1
    assert follower.windows == still["windows"] + playing["windows"] + steady["windows"] and found["skipped"] == {}
    assert steady["windows"] == playing["windows"], "its camera stood still"
    photo, film = (found["files"][name] for name in names)
    assert list(photo) == [STILL] and film[STILL]["right"] + photo[STILL]["right"] == still["right"]
    for kind, windows in ((still, 2), (playing, 1), (steady, 1)):
        assert list(kind["classes"]) == [label for label in CLASSES if label != "still" or kind is still]
        assert kind["top1"] > 0.85 and kind["right"] == sum(row["right"] for row in kind["classes"].values())
        for label, row in kind["classes"].items():
            assert row["windows"] == sum(row["decisions"].values()) == windows
            assert row["right"] == row["decisions"].get(label, 0)


def film_of(camera: Camera, picture: np.ndarray) -> list[tuple[np.ndarray, float]]:
    return [(camera.view(picture, i / 25), i / 25) for i in range(50)]


@pytest.mark.parametrize("label", CLASSES)
def test_a_film_is_steadied_whatever_its_camera_did(label):
    """Then nothing moves: all of its pictures are, but for what lies between pixels, the first. Rolls are a quarter of
    what the class has: of larger ones too little is always in the picture."""
    picture = cv2.GaussianBlur(any_picture(680, 512), (0, 0), 2)
    share = 0.25 if label.endswith("clockwise") else 1.0
    for seed in range(2):
        camera = any_camera(label, seed, 680, 512)
        film = film_of(replace(camera, path=replace(camera.path, travel=share * camera.path.travel)), picture)
        steady = footage.steadied(film)
        assert [t_s for _, t_s in steady] == [t_s for _, t_s in film]
        first, last = (steady[i][0].astype(float) for i in (0, -1))
        assert first.shape == last.shape and min(first.shape[:2]) >= MIN_VIEW_PX
        assert np.abs(last - first).mean() < 0.2 * first.std(), seed
        wandered = np.abs(film[-1][0].astype(float) - film[0][0]).mean()
        assert label in ("still", "shake", "nod") or np.abs(last - first).mean() < 0.5 * wandered, seed


def test_people_who_move_are_not_followed_and_cuts_and_blank_pictures_cannot_be():
    frames = [(any_picture(seed=3).copy(), i / 25) for i in range(50)]
    for i, (picture, _) in enumerate(frames):
        cv2.circle(picture, (40 + 5 * i, 128), 40, (0, 0, 255), -1)
    steady = footage.steadied(frames)
    assert np.abs(steady[-1][0][:60].astype(float) - steady[0][0][:60]).mean() < 6, "where nobody was"
    assert footage.steadied(frames[:25] + [(any_picture(seed=4), t_s) for _, t_s in frames[25:]]) is None
    assert footage.steadied([(np.zeros((90, 120, 3), np.uint8), i / 25) for i in range(50)]) is None


def test_a_camera_that_moved_by_itself_spoils_labels_until_it_is_steadied(tmp_path):
    picture = any_picture(680, 512)
    writer = None
    for view, _ in film_of(any_camera("left", 0, 680, 512), picture):
        writer = writer or cv2.VideoWriter(
            str(tmp_path / "turning.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, view.shape[1::-1]
        )
        writer.write(view)
    writer.release()
    found = footage.measure(Follower(), [str(tmp_path / "turning.avi")], 1, 0, no_progress)
    kinds = found["kinds"]
    assert kinds[PLAYING]["top1"] < 0.7 and kinds[STEADIED]["top1"] > 0.85
    assert kinds[PLAYING]["classes"]["right"]["right"] == 0


def test_what_cannot_be_steadied_is_not_counted_as_such(folder, monkeypatch):
    monkeypatch.setattr(footage, "steadied", lambda frames: None)
    kinds = footage.measure(Follower(), [str(folder / "more" / "film.avi")], 1, 0, no_progress)["kinds"]
    assert STEADIED not in kinds and kinds[PLAYING]["windows"] == len(CLASSES) - 1


def test_a_decision_no_camera_can_cause_is_wrong(folder):
    found = footage.measure(Follower(always="open"), [str(folder / "more" / "photo.png")], 1, 0, no_progress)
    assert list(found["kinds"]) == [STILL] and found["kinds"][STILL]["right"] == 0
    assert found["kinds"][STILL]["classes"]["left"]["decisions"] == {"open": 1}


def test_what_does_not_fit_is_left_out_by_name(tmp_path):
    cv2.imwrite(str(tmp_path / "small.png"), any_picture(120, 90))
    found = footage.measure(Follower(always="still"), [str(tmp_path)], 2, 0, no_progress)
    counted = found["kinds"][STILL]["classes"]
    assert "still" in counted and found["skipped"][STILL]["approach"] == 2
    for label in CLASSES:
        assert counted.get(label, {"windows": 0})["windows"] + found["skipped"][STILL].get(label, 0) == 2


@pytest.fixture
def plan(tmp_path) -> Path:
    """For the fake backend, with the labels of rendered motion."""
    manifest = toy_manifest(span_s=SPAN_S)
    logits = (TensorSpec("logits", "float32", ("N", len(motion.CLASSES))),)
    graphs = tuple(replace(g, outputs=logits) if g.stage == "clip" else g for g in manifest.graphs)
    return write_toy_plan(tmp_path / "motion.plan", replace(manifest, labels=motion.CLASSES, graphs=graphs)).path


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, footage.__file__, *arguments, "--backend", "fake", "--windows", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_the_script_runs_a_plan_through_the_runtime(plan, folder):
    done = run(str(plan), str(folder / "more" / "film.avi"), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["backend"] == "fake" and "cores" in found["machine"]["cpu"] and found["span_s"] == SPAN_S
    assert found["kinds"][STILL]["windows"] == found["kinds"][PLAYING]["windows"] + 1 == len(CLASSES)
    lines = footage.table(found).splitlines()
    assert [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in CLASSES] == list(CLASSES)
    assert f"{found['kinds'][STILL]['right']}/{len(CLASSES)}" in lines[-1]


def test_mistakes_are_one_sentence(plan, toy_plan, folder):
    done = run(str(plan), str(folder / "nothing"))
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("footage.py: ") and done.stderr.count("\n") == 1
    with Runtime(toy_plan, backend="fake") as runtime, pytest.raises(PlanMismatch, match="does not tell recede, .*nod"):
        footage.measure(runtime, [str(folder)], 1, 0, no_progress)
