"""How well do events tell what happened when?

    python benchmarks/events.py vlf_edge/weights/vlf-tiny.plan [street.mp4 ...] --scenes 480 --hours 8

Events of rendered motion, on surfaces that no training clip shows:

  clips, ends held     test clips of 2 s, first and last frame held for 3 s: what `vlf-edge eval PLAN motion --events`
                       plays
  scenes with rests    2 to 4 s of one motion in a scene that rests before and after, while noise, the hand that holds
                       the camera and others who move go on
  cuts                 test clips of 2 s between clips of class still, 3 to 6 s, of other scenes, eight in a row: each
                       border is a cut, which no fixed camera sees
  still scenes         20 s each in which nothing happens: how often is there an event all the same?

and the events of the footage that is named, without a truth: what do the labels mean there? Intervals are 95 %, by the
bootstrap over scenes. --thresholds adds a row for each of these thresholds, of the same decisions. --seed: scenes of
other seeds are other scenes; the defaults of EventSettings were chosen on other seeds than 1000's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from hardware import describe, header

from vlf_edge import EventSettings, Runtime
from vlf_edge.commands.progress import Progress
from vlf_edge.errors import PlanMismatch, VlfError
from vlf_edge.evaluation.event_streams import HELD_SPANS, HeldClip
from vlf_edge.evaluation.events import Action, events_of, summarize_events
from vlf_edge.synthetic import CLASSES, HELD_OUT_SEED, MotionClip
from vlf_edge.types import Prediction, Sampling
from vlf_edge.video import open_source
from vlf_edge.video.sampler import Sampler

WIDTH, HEIGHT, FPS = 85, 64, 30.0
FIRST_SEED = HELD_OUT_SEED + (1 << 37)  # in the upper half of the validation seeds: no data set's defaults
SCENES_PER_SEED = 1 << 16
STILL_S = 20.0
KINDS = ("clips, ends held", "scenes with rests", "cuts", "still scenes")

Scene = tuple[str, list[Prediction], list[Action]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", help="a plan of the classes of motion, such as vlf_edge/weights/vlf-tiny.plan")
    parser.add_argument("footage", nargs="*", help="video files whose events are listed")
    parser.add_argument("--scenes", type=int, default=480, metavar="N", help="of each kind (default: 480)")
    parser.add_argument("--hours", type=float, default=1.0, metavar="H", help="of still scenes (default: 1)")
    parser.add_argument("--phases", type=int, metavar="P", help="decisions per grid step (default: the plan's)")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[], metavar="P", help="to compare")
    parser.add_argument("--seed", type=int, default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--backend", default="auto", metavar="NAME", help="default: auto")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    try:
        found = measure(args)
    except VlfError as error:
        print(f"events.py: {error}", file=sys.stderr)
        return 1
    if args.json:
        json.dump(found, sys.stdout, indent=1)
        print()
    else:
        print(header(found["machine"]), table(found), sep="\n\n")
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures, as plain JSON values."""
    usual = EventSettings()
    settings = [usual, *(replace(usual, threshold=p, leave=min(p, usual.leave)) for p in args.thresholds)]
    progress, rows, footage = Progress(), [], {}
    with Runtime(args.plan, backend=args.backend, phases=args.phases) as runtime:
        if runtime.labels != CLASSES:
            raise PlanMismatch(f"{args.plan} is for other classes than {', '.join(CLASSES)}")
        numbers = {kind: args.scenes for kind in KINDS[:2]} | {KINDS[2]: max(1, args.scenes // 8)}
        numbers[KINDS[3]] = max(1, round(args.hours * 3600 / STILL_S))
        for kind, number in numbers.items():
            played: list[list[Any]] = [[] for _ in settings]
            for done, (name, predictions, truth) in enumerate(scenes(runtime, kind, number, args.seed)):
                progress(kind, done + 1, number)
                for one, streams in zip(settings, played):
                    events = events_of(name, predictions, runtime.event_detector(one))
                    streams.append(replace(events, truth=tuple(truth)))
            rows += [
                {"kind": kind, "threshold": one.threshold} | summarize_events(streams, CLASSES)
                for one, streams in zip(settings, played)
            ]
        for name in args.footage:
            footage[name] = [asdict(event) for event in runtime.events(name, usual) if event.t_end_s is not None]
        ran = {"plan": args.plan, "precision": runtime.plan.manifest.precision, "backend": runtime.backend}
        ran |= {"phases": runtime.recognizer.sampling.phases, "seed": args.seed}
    machine = describe("numpy", "opencv-python-headless", "openvino", "onnxruntime")
    return {"machine": machine, **ran, "settings": asdict(usual), "rows": rows, "footage": footage}


def scenes(runtime: Runtime, kind: str, number: int, seed: int) -> Iterator[Scene]:
    """(name, predictions, what happens) of each scene of a kind."""
    make = dict(zip(KINDS, (held, resting, cuts, still)))[kind]
    for i in range(number):
        rng = np.random.default_rng((seed, KINDS.index(kind), i))
        first = FIRST_SEED + seed * SCENES_PER_SEED + int(rng.integers(SCENES_PER_SEED))
        source, truth = make(CLASSES[1 + i % (len(CLASSES) - 1)], first, rng, runtime.recognizer.sampling)
        predictions = list(runtime.stream(source))
        if isinstance(source, HeldClip):
            truth = [Action(truth[0].label, source.held_s, source.end_s)]
        yield f"{kind} {i}", predictions, truth


def held(label: str, seed: int, rng: np.random.Generator, sampling: Sampling) -> tuple[Any, list[Action]]:
    source = open_source(f"test://motion?label={label}&seed={seed}&seconds=2&width={WIDTH}&height={HEIGHT}")
    return HeldClip(source, HELD_SPANS * sampling.span_s), [Action(label, 0, 0)]


def resting(label: str, seed: int, rng: np.random.Generator, sampling: Sampling) -> tuple[Any, list[Action]]:
    span_s = sampling.span_s
    rest_s, moving_s = rng.uniform(1.25, 2.0) * span_s, rng.uniform(1.0, 2.0) * span_s
    clip = MotionClip(label, seed, WIDTH, HEIGHT, FPS, moving_s + 2 * rest_s, rest_s=rest_s)
    return frames([clip], sampling), [Action(label, clip.begins_s, clip.ends_s)]


def cuts(label: str, seed: int, rng: np.random.Generator, sampling: Sampling) -> tuple[Any, list[Action]]:
    clips, truth, now_s = [], [], 0.0
    for i in range(8):
        name = CLASSES[1 + int(rng.integers(len(CLASSES) - 1))]
        for label, seconds in (("still", rng.uniform(3, 6)), (name, 2.0)):
            clips.append(MotionClip(label, seed + i * 7919, WIDTH, HEIGHT, FPS, seconds))
            if label != "still":
                truth.append(Action(label, now_s, now_s + clips[-1].count / FPS))
            now_s += clips[-1].count / FPS
    clips.append(MotionClip("still", seed + 1, WIDTH, HEIGHT, FPS, 4.0))
    return frames(clips, sampling), truth


def still(label: str, seed: int, rng: np.random.Generator, sampling: Sampling) -> tuple[Any, list[Action]]:
    return frames([MotionClip("still", seed, WIDTH, HEIGHT, FPS, STILL_S)], sampling), []


def frames(clips: list[MotionClip], sampling: Sampling) -> Iterator[tuple[np.ndarray, float]]:
    """The frames of clips one after another, but for those that the sampling grid would pass over: rendering them
    would change nothing."""
    sampler, number = Sampler(sampling), 0
    for clip in clips:
        for i in range(clip.count):
            if sampler.accept(number / FPS) is not None:
                yield clip.render(i), number / FPS
            number += 1


def table(found: dict[str, Any]) -> str:
    """Markdown: one row for each kind of scene and threshold, and the events of each footage."""
    lines = [
        f"{found['plan']} ({found['precision']}) on {found['backend']}, phases {found['phases']}, seed {found['seed']}",
        "",
        "| scenes | threshold | actions | F1 | precision | recall | start, s | end, s | told, s | false an hour |",
        "|---" * 10 + "|",
    ]
    for row in found["rows"]:
        cells = [row["kind"], f"{row['threshold']:g}", row["actions"] or f"{row['hours']:.1f} hours of none"]
        cells += [between(row, name) for name in ("f1", "precision", "recall")]
        cells += [error(row, side) for side in ("start", "end")]
        cells += [between(row, name) for name in ("told_after_s", "false_per_hour")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "start, end: median error without its sign (and with it); told: after the action began; else: (interval)",
    ]
    for name, events in found["footage"].items():
        told = ", ".join(f"{e['label']} {e['t_start_s']:.1f} to {e['t_end_s']:.1f} s" for e in events) or "no event"
        lines += ["", f"{name}: {told}"]
    return "\n".join(lines)


def between(row: dict[str, Any], name: str) -> str:
    """A figure and its interval; "-" where there is nothing to take it from."""
    value, (low, high) = row[name], row["intervals"][name]
    known = value is not None and (row["actions"] or name == "false_per_hour")
    return f"{value:.2f} ({low:.2f} to {high:.2f})" if known else "-"


def error(row: dict[str, Any], side: str) -> str:
    size, signed = row[f"{side}_abs_error_s"], row[f"{side}_error_s"]
    return "-" if size is None else f"{size:.2f} ({signed:+.2f})"


if __name__ == "__main__":
    sys.exit(main())
