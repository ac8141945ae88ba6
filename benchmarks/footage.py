"""Does a plan trained on rendered motion work on real pictures? A virtual camera moves over footage and asks it.

  python benchmarks/footage.py PLAN FILE_OR_FOLDER... [--windows N] [--seed S] [--json]

The camera pans, zooms, rolls and shakes over pictures it never leaves: its view is a part of the real picture, with no
border and nothing repeated. The truth is what its path makes the content of the view do: "left" is content that moves
to the left, as when a camera turns to the right. Speeds are those of rendered clips, from the 25th to the 90th
percentile, with a hand's tremor and a little of every other motion; the code is not the renderer's.

  still pictures   images, and the first frame of every stretch of a clip, all filmed at 30 frames a second
  playing clips    stretches that play on meanwhile, at their own frame rate: same place, same path of the camera. All
                   that moves in them disturbs
  steadied clips   those of them whose own camera can be followed by what it shows, after its motion was undone. As they
                   were filmed, where that camera turns or shakes, or with cuts, the label is not the whole truth

Every stretch is filmed once for each class, but clips that play never with a camera that stands still: people who move
before it are what the other classes mean, too, and no label says which. The frames go one by one into Runtime.push with
their time stamps, and the first decision counts. Opening and closing are not motions of a camera: no window has those
labels, and to decide for them is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from hardware import describe, header

from vlf_edge import Runtime
from vlf_edge.commands.progress import Progress
from vlf_edge.errors import PlanMismatch, SourceError, VlfError
from vlf_edge.video.sampler import TOLERANCE_S
from vlf_edge.video.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, open_source

# A pose is (x, y, log scale, angle) of the content in the view: x to the right and y down in short sides of the view,
# the angle in radians, clockwise as seen. Each class: the axis it moves along and the way it goes there; 0: to and fro.
MOTIONS = {
    "still": None,
    "left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1),
    "recede": (2, -1), "approach": (2, 1), "counter-clockwise": (3, -1), "clockwise": (3, 1),
    "shake": (0, 0), "nod": (1, 0),
}  # fmt: skip
CLASSES = tuple(MOTIONS)
TRAVEL = ((0.34, 0.70), (0.34, 0.70), (0.50, 1.02), (0.98, 2.21))  # least and most in a window of 2 s
SWING, SWING_HZ = (0.10, 0.20), (0.84, 1.32)
STRAY = (0.04, 0.04, 0.06, 0.06)  # at most, in a window, along the axes that a class is not about
TREMOR, TREMOR_HZ = (0.004, 0.004, 0.004, 0.005), (0.5, 2.5)

ASPECT = 4 / 3
FILM_FPS = 30.0
MIN_VIEW_PX = 64  # what the camera must see of a picture at least, along its short side
MAX_PICTURE_PX = 720  # short side; larger pictures are shrunk to it, as a video camera would
# Below this share of corners that move together, it was no camera's motion but a cut, or nothing but people who move.
TOGETHER = 0.25
STILL, PLAYING, STEADIED = "still pictures", "playing clips", "steadied clips"


@dataclass(frozen=True)
class CameraPath:
    """How the content of the view moves in a window. Arrays: (4,) float64 in units of a pose.

    travel: from beginning to end. swing: how far to and fro. tremor: the same, of a hand. ease: 0 for a steady pace,
    below 1 for one that is slow at both ends.
    """

    span_s: float
    travel: np.ndarray
    ease: float
    swing: np.ndarray
    swing_hz: float
    swing_phase: float
    tremor: np.ndarray
    tremor_hz: np.ndarray
    tremor_phase: np.ndarray

    @classmethod
    def draw(cls, label: str, span_s: float, rng: np.random.Generator) -> CameraPath:
        """One path of that class, over ``span_s`` seconds."""
        travel, swing = np.zeros(4), np.zeros(4)
        if MOTIONS[label] is not None:
            axis, way = MOTIONS[label]
            travel = rng.uniform(-1, 1, 4) * STRAY
            # As in rendered clips: longer ones travel further, but more slowly.
            travel[axis] = way * rng.uniform(*TRAVEL[axis]) * np.sqrt(span_s / 2)
            swing[axis] = rng.uniform(*SWING) if way == 0 else 0.0
        return cls(
            span_s,
            travel,
            ease=rng.uniform(0, 0.4),
            swing=swing,
            swing_hz=rng.uniform(*SWING_HZ),
            swing_phase=rng.uniform(0, 2 * np.pi),
            tremor=rng.uniform(0, 1, 4) * TREMOR,
            tremor_hz=rng.uniform(*TREMOR_HZ, 4),
            tremor_phase=rng.uniform(0, 2 * np.pi, 4),
        )

    def poses(self, times_s: np.ndarray) -> np.ndarray:
        """(n,) seconds since the window began -> (n, 4) float64."""
        t_s = np.asarray(times_s, np.float64)[:, np.newaxis]
        part = t_s / self.span_s
        way = part - 0.5 - self.ease * np.sin(2 * np.pi * part) / (2 * np.pi)
        swing = self.swing * np.sin(2 * np.pi * self.swing_hz * t_s + self.swing_phase)
        tremor = self.tremor * np.sin(2 * np.pi * self.tremor_hz * t_s + self.tremor_phase)
        return self.travel * way + swing + tremor


@dataclass(frozen=True)
class Camera:
    """A path at a place in a picture. centre_px: (x, y) where the pose of zeros looks. short_px: what the view's short
    side then covers, in px of the picture. size_px: (width, height) of the views it takes."""

    path: CameraPath
    centre_px: np.ndarray
    short_px: float
    size_px: tuple[int, int]

    @classmethod
    def place(cls, path: CameraPath, width_px: int, height_px: int, rng: np.random.Generator) -> Camera | None:
        """Somewhere in a picture of that size, so that no view leaves it; None if all of the path fits only when the
        view gets smaller than MIN_VIEW_PX. Where a view is widest, one of its pixels is one of the picture."""
        poses = path.poses(np.linspace(0, path.span_s, 121))
        seen = footprint(poses)
        least, most = seen.min(axis=(0, 1)), seen.max(axis=(0, 1))
        room_px = np.array([width_px, height_px]) - 3.0  # a pixel short on each side, for instants between those 121
        largest_px = float((room_px / (most - least)).min())
        closest, widest = np.exp(-poses[:, 2].max()), np.exp(-poses[:, 2].min())
        if largest_px * closest < MIN_VIEW_PX:
            return None
        short_px = rng.uniform(max(0.8 * largest_px, MIN_VIEW_PX / closest), largest_px)
        free_px = room_px - short_px * (most - least)
        height = round(short_px * widest)
        return cls(path, 1 - short_px * least + free_px * rng.random(2), short_px, (round(ASPECT * height), height))

    def matrix(self, t_s: float) -> np.ndarray:
        """(2, 3) float64 that maps pixels of the picture to pixels of the view at that instant."""
        x, y, log_scale, angle = self.path.poses(np.array([t_s]))[0]
        width, height = self.size_px
        zoom = np.exp(log_scale) * height / self.short_px
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        middle = np.array([width - 1, height - 1]) / 2 + height * np.array([x, y])
        return np.column_stack([turn, middle - turn @ self.centre_px])

    def view(self, picture: np.ndarray, t_s: float) -> np.ndarray:
        """What it sees: (H, W, 3) uint8 BGR of the picture's size -> the same of ``size_px``."""
        return cv2.warpAffine(picture, self.matrix(t_s), self.size_px, flags=cv2.INTER_LINEAR)


def footprint(poses: np.ndarray) -> np.ndarray:
    """(n, 4) -> (n, 4, 2) float64: the corners of each view in a picture, in short sides of the view of no scale."""
    corners = 0.5 * np.array([[-ASPECT, -1], [ASPECT, -1], [ASPECT, 1], [-ASPECT, 1]])
    cos, sin = np.cos(poses[:, 3]), np.sin(poses[:, 3])
    back = np.exp(-poses[:, 2])[:, None, None] * np.stack([cos, sin, -sin, cos], axis=1).reshape(-1, 2, 2)
    return np.einsum("nij,ncj->nci", back, corners - poses[:, np.newaxis, :2])


def find_footage(names: Sequence[str]) -> list[str]:
    """The images and clips among files and in folders (and their sub-folders). Raises SourceError if one has none."""
    found: list[str] = []
    for name in names:
        path = Path(name)
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES + IMAGE_SUFFIXES)
        if not path.is_file() and not inside:
            what = "holds no video and no image" if path.is_dir() else "is no file and no folder"
            raise SourceError(f"{name} {what}; known endings: {', '.join(VIDEO_SUFFIXES + IMAGE_SUFFIXES)}")
        found += [name] if path.is_file() else map(str, inside)
    return found


def stretches(
    names: Sequence[str], count: int, span_s: float, seed: int
) -> Iterator[tuple[str, list[tuple[np.ndarray, float]]]]:
    """``count`` stretches of ``span_s`` seconds, evenly from all files and at random places in them: each its file and
    (picture, t_s), times from 0. Of an image and of a clip that is too short: one frame. Raises SourceError."""
    rng = np.random.default_rng(seed)
    for place, chosen in enumerate(rng.permutation(len(names))):
        share = count // len(names) + (place < count % len(names))
        if share == 0:
            return
        with open_source(names[chosen]) as source:
            times_s = np.array([frame.t_s for frame in source])
        end_s = times_s[-1] + np.ptp(times_s) / max(1, len(times_s) - 1)  # until when the last frame is seen
        long_enough = times_s <= end_s - span_s + TOLERANCE_S
        starts_s = np.sort(rng.choice(times_s[long_enough] if long_enough.any() else times_s, share))
        for frames in cut(names[chosen], starts_s.tolist(), span_s if long_enough.any() else 0.0):
            yield names[chosen], [(picture, t_s - frames[0][1]) for picture, t_s in frames]


def cut(name: str, starts_s: list[float], length_s: float) -> Iterator[list[tuple[np.ndarray, float]]]:
    """The stretches of a source that begin at these instants, which ascend and at each of which there is a frame, read
    in one go: only what is within one stretch is held. Each has at least that frame."""
    waiting, kept = list(starts_s), []
    with open_source(name) as source:
        for frame in source:
            while kept and frame.t_s >= kept[0][1] + length_s:
                yield kept
                waiting.pop(0)
                if not waiting:
                    return
                kept = [(picture, t_s) for picture, t_s in kept if t_s >= waiting[0]]
            if frame.t_s >= waiting[0]:
                kept.append((shrunk(frame.image), frame.t_s))
    for start_s in waiting:
        yield [(picture, t_s) for picture, t_s in kept if t_s >= start_s]


def shrunk(image: np.ndarray) -> np.ndarray:
    """The image with a short side of at most MAX_PICTURE_PX."""
    scale = min(1.0, MAX_PICTURE_PX / min(image.shape[:2]))
    return image if scale == 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def steadied(frames: Sequence[tuple[np.ndarray, float]]) -> list[tuple[np.ndarray, float]] | None:
    """The same as a camera on a stand would have filmed it, cut to what is always in the picture: (picture, t_s).

    Every picture is laid over the first by what most corners do from one to the next. None where too few go together.
    """
    path, paths = np.eye(3), [np.eye(3)]
    greys = [cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture, _ in frames]
    for before, after in zip(greys, greys[1:]):
        corners = cv2.goodFeaturesToTrack(before, 300, 0.01, 5)
        if corners is None:
            return None
        moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None)
        if found.sum() < 4:
            return None
        step, together = cv2.estimateAffinePartial2D(corners[found == 1], moved[found == 1], ransacReprojThreshold=0.7)
        if step is None or together.mean() < TOGETHER:
            return None
        path = np.vstack([step, [0, 0, 1]]) @ path
        paths.append(path)
    height, width = greys[0].shape
    back = np.linalg.inv(paths)
    corners = back[:, :2] @ np.array([[0, 0, 1], [width - 1, 0, 1], [width - 1, height - 1, 1], [0, height - 1, 1]]).T
    xs, ys = np.ceil(corners[:, 0]), np.ceil(corners[:, 1])  # (n, 4), from the top left clockwise
    left, top = max(0, int(xs[:, [0, 3]].max())), max(0, int(ys[:, :2].max()))
    right, bottom = int(xs[:, 1:3].min()), int(ys[:, 2:].min())
    if min(right - left, bottom - top) < MIN_VIEW_PX:
        return None
    origin = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]])
    size = right - left, bottom - top
    return [(cv2.warpAffine(frame, (origin @ way)[:2], size), t_s) for (frame, t_s), way in zip(frames, back)]


def decide(runtime: Runtime, camera: Camera, frames: Iterable[tuple[np.ndarray, float]]) -> str:
    """The first decision about what the camera sees of (picture, t_s); "nothing" if the frames make no window."""
    runtime.reset()
    for picture, t_s in frames:
        prediction = runtime.push(camera.view(picture, t_s), t_s)
        if prediction is not None and prediction.state == "ok":
            return prediction.label
    return "nothing"


def measure(
    runtime: Runtime, names: Sequence[str], windows: int, seed: int, progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Films ``windows`` stretches with a camera of each class. Returns plain JSON values.

    The same seed gives the same windows, on any plan of the same span. Raises PlanMismatch for a plan of other classes.
    """
    check_labels(runtime)
    span_s = runtime.recognizer.sampling.span_s
    tallies: dict[str, dict[str, Counter]] = {kind: {} for kind in (STILL, PLAYING, STEADIED)}  # then by file
    skipped: dict[str, Counter] = {kind: Counter() for kind in tallies}
    for number, (name, playing) in enumerate(stretches(names, windows, span_s, seed)):
        progress("stretches filmed", number, windows)
        kinds = {STILL: [(playing[0][0], i / FILM_FPS) for i in range(round(span_s * FILM_FPS))]}
        if len(playing) > 1:
            kinds |= {PLAYING: playing, STEADIED: steadied(playing)}
        for kind, frames in kinds.items():
            if frames is None:
                continue
            height_px, width_px = frames[0][0].shape[:2]
            for place, label in enumerate(CLASSES):
                if label == "still" and kind != STILL:
                    continue
                rng = np.random.default_rng((seed, number, place))
                camera = Camera.place(CameraPath.draw(label, span_s, rng), width_px, height_px, rng)
                if camera is None:
                    skipped[kind][label] += 1
                else:
                    tallies[kind].setdefault(name, Counter())[label, decide(runtime, camera, frames)] += 1
    progress("stretches filmed", windows, windows)
    totals = {kind: sum(of_file.values(), Counter()) for kind, of_file in tallies.items() if of_file}
    return {
        "span_s": span_s,
        "stretches": windows,
        "seed": seed,
        "skipped": {kind: dict(labels) for kind, labels in skipped.items() if labels},
        "kinds": {kind: {**rates(total), "classes": by_class(total)} for kind, total in totals.items()},
        "files": {
            name: {kind: rates(tallies[kind][name]) for kind in totals if name in tallies[kind]}
            for name in sorted(names)
        },
    }


def check_labels(runtime: Runtime) -> None:
    missing = [label for label in CLASSES if label not in runtime.labels]
    if missing:
        raise PlanMismatch(
            f"{runtime.plan.path} does not tell {', '.join(missing)}: this benchmark is for plans of the classes of "
            "rendered motion; train weights for one with: vlf-edge train motion"
        )


def by_class(tally: Counter) -> dict[str, dict[str, Any]]:
    """{(truth, decision): count} -> each class's rates and its decisions, most frequent first."""
    return {
        label: {**rates(of_label), "decisions": {decided: count for (_, decided), count in of_label.most_common()}}
        for label in CLASSES
        if (of_label := Counter({seen: count for seen, count in tally.items() if seen[0] == label}))
    }


def rates(tally: Counter) -> dict[str, Any]:
    """{(truth, decision): count} -> windows, how many were right, top-1."""
    right = sum(count for (truth, decided), count in tally.items() if truth == decided)
    return {"windows": tally.total(), "right": right, "top1": round(right / tally.total(), 4)}


def table(figures: dict[str, Any]) -> str:
    """For people."""
    kinds, files = figures["kinds"], figures["files"]
    weights = "RANDOM WEIGHTS, labels mean nothing" if figures["random_weights"] else "trained weights"
    wide = max(len(name) for name in [*CLASSES, *map(_short, files)]) + 1
    lines = [
        header(figures["machine"]),
        f"{figures['model']} {figures['precision']} on {figures['backend']}, {weights}; windows of "
        f"{figures['span_s']:g} s; {figures['stretches']} stretches, {len(files)} files, seed {figures['seed']}",
        "",
        f"{'class':{wide}s}" + "".join(f"{kind:>24s}" for kind in kinds) + "   mistaken for",
    ]
    for label in CLASSES:
        rows = [kind["classes"].get(label) for kind in kinds.values()]
        mistakes = sum((Counter(row["decisions"]) for row in rows if row), Counter())
        del mistakes[label]
        cells = "".join(map(_cell, rows))
        lines.append(f"{label:{wide}s}{cells}   {_counts(dict(mistakes.most_common(3)))}".rstrip())
    lines += [
        f"{_short(name):{wide}s}" + "".join(_cell(found.get(kind)) for kind in kinds) for name, found in files.items()
    ]
    lines.append(f"{'all':{wide}s}" + "".join(map(_cell, kinds.values())))
    for kind, labels in figures["skipped"].items():
        lines += ["", f"left out of {kind}, since the camera's path does not fit: {_counts(labels)}"]
    return "\n".join(lines)


def _short(name: str) -> str:
    return Path(name).name


def _cell(row: dict[str, Any] | None) -> str:
    counts = f"{row['right']}/{row['windows']}" if row else ""
    return f"{counts:>15s} {row['top1']:8.1%}" if row else f"{'none':>24s}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{label} {count}" for label, count in counts.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("plan", metavar="PLAN", help="a vlf.plan of the classes of rendered motion")
    add("footage", nargs="+", metavar="FILE_OR_FOLDER", help="images and videos")
    add("--windows", type=int, default=60, metavar="N", help="windows of each class and kind (default: 60)")
    add("--seed", type=int, default=0, metavar="S", help="of the places and the paths (default: 0)")
    add("--backend", default="auto", metavar="NAME", help="what runs the plan (default: the fastest that is here)")
    add("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    if args.windows < 1 or args.seed < 0:
        parser.error(f"--windows {args.windows} --seed {args.seed}: expected 1 or more windows and a seed from 0 on")
    machine = describe("numpy", "opencv-python", "openvino", "onnxruntime")
    try:
        names = find_footage(args.footage)
        # A plan with interleaved grids decides no differently: it just decides more often.
        with Runtime(args.plan, backend=args.backend, phases=1) as runtime:
            manifest = runtime.plan.manifest
            figures = {
                "machine": machine,
                "plan": str(runtime.plan.path),
                "model": manifest.model.get("name"),
                "precision": manifest.precision,
                "backend": runtime.backend,
                "random_weights": manifest.random_weights,
                **measure(runtime, names, args.windows, args.seed, Progress()),
            }
    except VlfError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
    print(json.dumps(figures, indent=1) if args.json else table(figures))


if __name__ == "__main__":
    main()
