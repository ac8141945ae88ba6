r"""How well does a plan know actions of which it was shown a few clips, by people it has not seen?

    python benchmarks/enrol.py PLAN my-clips/ --group 'seq\d+' --none nothing/ --query 'set2'

my-clips/ is a folder of class/clip.avi (in train/ and val/ or not) or an annotation file. --group finds, in a file's
name, whose recording it is: in every draw some groups are asked about and the clips to enrol come from the others.
--query says which clips may be asked about, so that a choice that was made on the others is not judged by them.

Each draw takes --ways labels, half of the groups to ask about, and k clips of each label from the other groups, which
are enrolled as `vlf-edge enrol` does. A clip is decided by the mean of the probabilities of its live windows: among the
labels alone ("right"), and with "unknown" an answer like them. Clips of nothing are given and asked about by group too:
false accepts are counted as `vlf-edge eval --none` counts them, and those apart that last three windows or more. The
same windows also make events, as `vlf-edge run --events` makes them: clips with none of their label are missed, clips
with one of another are wrong, and every one of a clip of nothing is false. 20 draws; mean and 95 % interval of the
mean.

--heads compares the discriminant with nearest mean, cosine, ridge and logistic regression, on the same draws.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hardware
import numpy as np

from vlf_edge import Plan
from vlf_edge.datasets.annotations import read_annotations
from vlf_edge.enrolment.clips import TaughtClip
from vlf_edge.enrolment.discriminant import PRIOR_CLIPS, empty
from vlf_edge.enrolment.lesson import teach
from vlf_edge.enrolment.memory import Taught
from vlf_edge.enrolment.reading import PHASES, Reader
from vlf_edge.evaluation.metrics import auroc
from vlf_edge.head import UNKNOWN
from vlf_edge.runtime.event_settings import EventSettings
from vlf_edge.runtime.events import EventDetector
from vlf_edge.types import Prediction, Sampling
from vlf_edge.video.sources import expand_clips

LASTING = 3  # windows in a row
Head = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Shown:
    """A clip that was read. group: whose recording. may_be_asked: whether --query finds it."""

    clip: TaughtClip
    group: str
    may_be_asked: bool

    @property
    def live(self) -> np.ndarray:
        """(n, D): the windows that a live stream of it decides about."""
        return self.clip.reading.windows[::PHASES]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan")
    parser.add_argument("data")
    parser.add_argument("--none", help="folder of clips of nothing")
    parser.add_argument("--group", default=r"^[^_.]+", help="regular expression (default: up to the first _ or .)")
    parser.add_argument("--query", default="", help="regular expression (default: every clip)")
    parser.add_argument("--ways", type=int, default=5)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5, 10])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--false-accepts", type=float, default=0.01)
    parser.add_argument("--no-mirror", action="store_true")
    parser.add_argument("--event-threshold", type=float, default=EventSettings.threshold)
    parser.add_argument("--event-min", type=float, default=EventSettings.min_s, metavar="S")
    parser.add_argument("--heads", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    plan = Plan.open(args.plan)
    begin_s = time.monotonic()
    shown = read(plan, args)
    read_s = time.monotonic() - begin_s
    rows = [
        {"shots": shots, "head": head, **measure(plan.manifest.sampling, shown, shots, head, args)}
        for shots in args.shots
        for head in (("discriminant", *OTHERS) if args.heads else ("discriminant",))
    ]
    machine = hardware.describe("numpy", "opencv-python", "openvino", "onnxruntime")
    found = {"machine": machine, "precision": plan.manifest.precision, "clips": len(shown), "read_s": read_s}
    found["rows"] = rows
    print(json.dumps(found, indent=1) if args.json else f"{hardware.header(machine)}\n\n{table(rows)}")
    return 0


def read(plan: Plan, args: argparse.Namespace) -> list[Shown]:
    """Every clip once, with its mirror image; those without a window are left out, and counted on stderr."""
    named = [(str(row.path), row.label) for row in read_annotations(args.data).rows]
    named += [(name, UNKNOWN) for name in (expand_clips(args.none) if args.none else [])]
    shown = []
    with Reader(plan, ("features",)) as reader:
        for name, label in named:
            reading = reader.read(name, mirror=not args.no_mirror)
            group = re.search(args.group, Path(name).name)
            if len(reading.windows) and group:
                asked = re.search(args.query, Path(name).name) is not None
                shown.append(Shown(TaughtClip(name, label, reading), group[0], asked))
    print(f"{len(shown)} of {len(named)} clips have a window and a group", file=sys.stderr)
    return shown


def measure(
    sampling: Sampling, shown: Sequence[Shown], shots: int, head: str, args: argparse.Namespace
) -> dict[str, Any]:
    """{figure: [mean, half of the 95 % interval]} over all draws, with enrolling's own seconds."""
    return {name: interval(values) for name, values in over_draws(sampling, shown, shots, head, args).items()}


def over_draws(
    sampling: Sampling, shown: Sequence[Shown], shots: int, head: str, args: argparse.Namespace
) -> dict[str, list[float]]:
    """{figure: one value a draw}: the same draws for all that was read of the same clips."""
    rng = np.random.default_rng((args.seed, shots))
    found: dict[str, list[float]] = {}
    for _ in range(args.draws):
        labels, given, asked = draw(shown, shots, args.ways, rng)
        for name, value in judge(sampling, labels, given, asked, head, args).items():
            found.setdefault(name, []).append(value)
    return found


def interval(values: Sequence[float]) -> list[float]:
    """[mean, half of its 95 % interval]"""
    return [float(np.mean(values)), float(1.96 / np.sqrt(len(values)) * np.std(values, ddof=1))]


def draw(
    shown: Sequence[Shown], shots: int, ways: int, rng: np.random.Generator
) -> tuple[list[str], list[Shown], list[Shown]]:
    """(labels, clips to enrol, clips to ask about); clips of nothing on both sides, where there are some."""
    labels = sorted({one.clip.label for one in shown} - {UNKNOWN})
    labels = sorted(rng.permutation(labels)[:ways].tolist())
    groups = sorted({one.group for one in shown if one.may_be_asked})
    asked_groups = set(rng.permutation(groups)[: (len(groups) + 1) // 2].tolist())
    asked = [one for one in shown if one.group in asked_groups and one.may_be_asked]
    free = [one for one in shown if one.group not in asked_groups]
    given = [one for one in free if one.clip.label == UNKNOWN]
    for label in labels:
        own = [one for one in free if one.clip.label == label]
        given += [own[int(number)] for number in rng.permutation(len(own))[:shots]]
    return labels, given, [one for one in asked if one.clip.label in (*labels, UNKNOWN)]


def judge(
    sampling: Sampling,
    labels: list[str],
    given: Sequence[Shown],
    asked: Sequence[Shown],
    head: str,
    args: argparse.Namespace,
) -> dict[str, float]:
    if head != "discriminant":
        decide = OTHERS[head](labels, [one for one in given if one.clip.label != UNKNOWN])
        return {"right": _right(labels, asked, decide)}
    nothing = Taught((), (), (), False, empty(given[0].clip.windows.shape[1]))
    begin_s = time.perf_counter()
    lesson = teach(nothing, labels, [one.clip for one in given], [], [], args.false_accepts)
    figures = {"teach_s": time.perf_counter() - begin_s, "temperature": lesson.record["temperature"]}
    weight, bias = lesson.arrays["weight"], lesson.arrays["bias"]

    def decide(windows: np.ndarray) -> np.ndarray:
        return windows @ weight.T + bias

    figures["right"] = _right(labels, asked, decide)
    if lesson.unknown:
        settings = EventSettings(threshold=args.event_threshold, min_s=args.event_min)
        figures |= _unknown(labels, asked, decide)
        figures |= _events(labels, asked, decide, settings, sampling)
    return figures


def _right(labels: list[str], asked: Sequence[Shown], decide: Head) -> float:
    """The share of clips decided right among the labels alone."""
    found = [
        _softmax(decide(one.live)[:, : len(labels)]).mean(axis=0).argmax() == labels.index(one.clip.label)
        for one in asked
        if one.clip.label != UNKNOWN
    ]
    return float(np.mean(found))


def _unknown(labels: list[str], asked: Sequence[Shown], decide: Head) -> dict[str, float]:
    right, missed, margins, of_nothing, runs, lasting, seconds = [], [], [], [], 0, 0, 0.0
    for one in asked:
        z = decide(one.live)
        margin = z[:, :-1].max(axis=1) - z[:, -1]
        if one.clip.label != UNKNOWN:
            best = _softmax(z).mean(axis=0).argmax()
            right.append(best == labels.index(one.clip.label))
            missed.append(best == len(labels))
            margins.append(margin)
            continue
        accepted = np.flatnonzero(margin > 0)
        lengths = [len(run) for run in np.split(accepted, np.flatnonzero(np.diff(accepted) > 1) + 1) if len(run)]
        runs, lasting = runs + len(lengths), lasting + sum(length >= LASTING for length in lengths)
        seconds += one.clip.reading.seconds
        of_nothing.append(margin)
    nothing = np.concatenate(of_nothing)
    return {
        "right_with_unknown": float(np.mean(right)),
        "missed_clips": float(np.mean(missed)),
        "missed_windows": float((np.concatenate(margins) <= 0).mean()),
        "accepted_windows": float((nothing > 0).mean()),
        "accepted_per_hour": 3600 * runs / seconds,
        "lasting_per_hour": 3600 * lasting / seconds,
        "auroc": auroc(np.concatenate(margins), nothing),
    }


def _events(
    labels: list[str], asked: Sequence[Shown], decide: Head, settings: EventSettings, sampling: Sampling
) -> dict[str, float]:
    detector = EventDetector([*labels, UNKNOWN], sampling.span_s, settings)
    missed, wrong, false, seconds = [], [], 0, 0.0
    for one in asked:
        found: set[tuple[int, str]] = set()
        for number, scores in enumerate(_softmax(decide(one.live))):
            begin_s = number * sampling.step_s
            end_s = begin_s + (sampling.frames - 1) * sampling.step_s
            prediction = Prediction("ok", begin_s, end_s, number, 0.0, scores=scores)
            found |= {(event.id, event.label) for event in detector.add(prediction)}
        detector.finish()
        if one.clip.label == UNKNOWN:
            false, seconds = false + len(found), seconds + one.clip.reading.seconds
        else:
            missed.append(one.clip.label not in {label for _, label in found})
            wrong.append(any(label != one.clip.label for _, label in found))
    return {
        "event_missed": float(np.mean(missed)),
        "event_wrong": float(np.mean(wrong)),
        "false_events_per_hour": 3600 * false / seconds,
    }


def _softmax(z: np.ndarray) -> np.ndarray:
    exponents = np.exp(z - z.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def _weighted(labels: list[str], given: Sequence[Shown]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(windows, one-hot labels, weights) of all clips: every clip weighs one."""
    windows = np.concatenate([one.clip.windows for one in given])
    rows = np.concatenate([np.full(len(one.clip.windows), labels.index(one.clip.label)) for one in given])
    weights = np.concatenate([np.full(len(one.clip.windows), 1 / len(one.clip.windows)) for one in given])
    return windows, np.eye(len(labels))[rows], weights[:, np.newaxis]


def _means(windows: np.ndarray, hot: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (hot * weights).T @ windows / (hot * weights).sum(axis=0)[:, np.newaxis]


def nearest_mean(labels: list[str], given: Sequence[Shown]) -> Head:
    means = _means(*_weighted(labels, given))
    return lambda z: -((z[:, np.newaxis] - means) ** 2).sum(axis=2)


def cosine(labels: list[str], given: Sequence[Shown]) -> Head:
    windows, hot, weights = _weighted(labels, given)
    middle = (weights * windows).sum(axis=0) / weights.sum()

    def unit(z: np.ndarray) -> np.ndarray:
        return (z - middle) / np.linalg.norm(z - middle, axis=1, keepdims=True)

    means = _means(unit(windows), hot, weights)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return lambda z: 10 * unit(z) @ means.T


def ridge(labels: list[str], given: Sequence[Shown]) -> Head:
    windows, hot, weights = _weighted(labels, given)
    clips, middle = weights.sum(), (weights * windows).sum(axis=0) / weights.sum()
    apart = windows - middle
    spread = apart.T @ (weights * apart) / clips
    size = len(spread)
    covariance = (clips * spread + PRIOR_CLIPS * np.trace(spread) / size * np.eye(size)) / (clips + PRIOR_CLIPS)
    weight = np.linalg.solve(covariance, apart.T @ (weights * (hot - hot.mean(axis=0))) / clips)
    return lambda z: 10 * (z - middle) @ weight


def logistic(labels: list[str], given: Sequence[Shown], decay: float = 1e-3, steps: int = 300) -> Head:
    """Multinomial, by accelerated gradient descent from zero."""
    windows, hot, weights = _weighted(labels, given)
    weights = weights / weights.sum()
    middle = (weights * windows).sum(axis=0)
    scale = np.sqrt((weights * (windows - middle) ** 2).sum() / windows.shape[1])

    def prepared(z: np.ndarray) -> np.ndarray:
        return np.concatenate([(z - middle) / scale, np.ones((len(z), 1))], axis=1)

    x = prepared(windows)
    curvature = 0.5 * np.linalg.eigvalsh((x * weights).T @ x)[-1] + 2 * decay
    regularised = np.append(np.ones(x.shape[1] - 1), 0)[:, np.newaxis]
    now = before = np.zeros((x.shape[1], len(labels)))
    for step in range(steps):
        ahead = now + step / (step + 3) * (now - before)
        slope = x.T @ ((_softmax(x @ ahead) - hot) * weights) + 2 * decay * regularised * ahead
        now, before = ahead - slope / curvature, now
    return lambda z: prepared(z) @ now


OTHERS = {"nearest mean": nearest_mean, "cosine": cosine, "ridge": ridge, "logistic regression": logistic}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: one row a head and number of clips; shares in per cent."""
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("shots", "head")))
    lines = [["clips a label", "head", *(name.replace("_", " ") for name in names)], ["---"] * (len(names) + 2)]
    for row in rows:
        cells = []
        for name in names:
            scale, digits = (
                (1, 2) if name in ("teach_s", "temperature", "auroc") or name.endswith("per_hour") else (100, 1)
            )
            mean, half = row.get(name, (None, None))
            cells.append("" if mean is None else f"{scale * mean:.{digits}f} ± {scale * half:.{digits}f}")
        lines.append([str(row["shots"]), row["head"], *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
