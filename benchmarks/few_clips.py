"""What do options of `vlf-edge train` do for somebody with a few dozen clips?

    python benchmarks/few_clips.py --ways "" "--freeze frame"

Six gestures that `vlf-tiny` was not trained on, each a motion and its way back (swipes, a bow, a jump, a twist, a
grasp), are rendered into video files: a few to learn from, half as many to validate on, and three times as many to be
tested on, which show surfaces that no other clip does. Every way is `vlf-edge train --from vlf-tiny` with its defaults
and these options, once for each seed: of the clips and of the run. --rare leaves so much of the clips that half of the
gestures learn from.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import hardware
import numpy as np
from actions import vlf_edge, wilson

from vlf_edge.synthetic import HELD_OUT_SEED, MotionClip

FPS, SECONDS, SIZE_PX = 15.0, 2.0, (128, 96)
# Gesture -> the motion of Motion-13 that it begins with; it ends with the way back.
GESTURES = {
    "bow": "down", "grasp": "close", "jump": "up", "swipe_left": "left", "swipe_right": "right", "twist": "clockwise",
}  # fmt: skip
_FIRST_SEED = {"train": 5 << 20, "val": 6 << 20, "test": HELD_OUT_SEED + (7 << 20)}
_CLIPS_PER_SEED = 1 << 12


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", default=["", "--freeze frame"], help="options, quoted, of each way")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13], metavar="N")
    parser.add_argument("--clips", type=int, default=8, metavar="N", help="of each gesture to learn from (default: 8)")
    parser.add_argument("--rare", type=float, default=1.0, metavar="SHARE", help="default: 1, all alike")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            data = render(Path(folder) / f"{seed}", seed, args.clips, args.rare)
            found += [measure(data, way, seed) for way in args.ways]
    machine = hardware.describe("torch", "timm", "numpy", "opencv-python", "openvino", "onnxruntime")
    if args.json:
        print(json.dumps({"machine": machine, "runs": found}, indent=1))
    else:
        print(f"{hardware.header(machine)}\n\n{table(found)}")
    return 0


def render(folder: Path, seed: int, clips: int, rare: float) -> Path:
    """split/gesture/number.avi; gives the folder."""
    counts = {"train": clips, "val": max(1, clips // 2), "test": 3 * clips}
    for split, count in counts.items():
        for number, (gesture, motion) in enumerate(GESTURES.items()):
            few = max(1, round(rare * count)) if split == "train" and number % 2 else count
            (folder / split / gesture).mkdir(parents=True)
            for i in range(few):
                clip_seed = _FIRST_SEED[split] + seed * _CLIPS_PER_SEED + i
                clip = MotionClip(motion, clip_seed, *SIZE_PX, FPS, SECONDS / 2)
                write(folder / split / gesture / f"{i:03d}.avi", clip)
    return folder


def write(path: Path, clip: MotionClip) -> None:
    """There and back again."""
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, SIZE_PX)
    there = [clip.render(i) for i in range(clip.count)]
    for image in [*there, *there[::-1]]:
        video.write(np.ascontiguousarray(image))
    video.release()


def measure(data: Path, way: str, seed: int) -> dict:
    """One run with these options, judged on the test part."""
    weights, plan = str(data.parent / "w.safetensors"), str(data.parent / "w.plan")
    begin_s = time.monotonic()
    trained = vlf_edge("train", str(data), "--from", "vlf-tiny", "--seed", str(seed), "-o", weights, *shlex.split(way))
    minutes = (time.monotonic() - begin_s) / 60
    build = ("--precision", "fp32", "--target", "cpu", "--weights", weights, "-o", plan)
    vlf_edge("build", *build, json_too=False)
    judged = vlf_edge("eval", plan, str(data), "--split", "test")
    seconds, clips = (sum(row[name] for row in trained["history"]) for name in ("seconds", "clips"))
    found = {
        "way": way or "defaults",
        "seed": seed,
        "top1": judged["top1"],
        "class_recall": judged["class_recall"],
        "clips": judged["clips"],
        "val_top1": trained["record"]["val"]["top1"],
        "epochs": len(trained["history"]),
        "ms_a_clip": 1e3 * seconds / clips,
        "minutes": minutes,
    }
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def table(found: list[dict]) -> str:
    """Markdown: one row a way."""
    rows = [["options", "test top-1 of each seed", "together", "epochs", "minutes", "ms a clip"], ["---"] * 6]
    for way in dict.fromkeys(one["way"] for one in found):
        ones = [one for one in found if one["way"] == way]
        clips = sum(one["clips"] for one in ones)
        right = sum(one["top1"] * one["clips"] for one in ones)
        low, high = wilson(right, clips)
        middle = {name: statistics.median(one[name] for one in ones) for name in ("epochs", "minutes", "ms_a_clip")}
        rows.append([
            f"`{way}`", ", ".join(f"{one['top1']:.1%}" for one in ones),
            f"{right / clips:.1%} of {clips}, {low:.0%} to {high:.0%}",
            f"{middle['epochs']:g}", f"{middle['minutes']:.1f}", f"{middle['ms_a_clip']:.1f}",
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
