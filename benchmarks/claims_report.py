"""What the runs of claims.py came to: a table, the answers with their intervals, and a picture."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from hardware import describe, header
from models import Cost, cost, opened
from turns import in_turns, runs_of

from vlf_edge.models.sizes import Sizes
from vlf_edge.synthetic import CLASSES, REVERSES

YARDSTICK = "VLF, 4 tokens"
QUESTIONS = (
    ("order: a decoder over one vector a frame, against their mean", "VTN", "TSN"),
    ("order: h over one token a frame, against the mean of vectors", "VLF, 1 token", "TSN"),
    ("structure: 4 tokens a frame against 1", "VLF, 4 tokens", "VLF, 1 token"),
    ("structure: 16 tokens a frame against 4", "VLF, 16 tokens", "VLF, 4 tokens"),
    ("g, with 4 tokens", "VLF, 4 tokens", "VLF, 4 tokens, no g"),
    ("g, with 16 tokens", "VLF, 16 tokens", "VLF, 16 tokens, no g"),
    ("TSM against VLF with 4 tokens", "TSM", "VLF, 4 tokens"),
    ("TSM online against VLF with 4 tokens", "TSM, online", "VLF, 4 tokens"),
)
_REVERSIBLE = [CLASSES.index(name) for pair in REVERSES.items() for name in pair]
# Student's t for 95 %, by the number of seeds.
_T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}


class Scored(NamedTuple):
    """One run. top1: share of the held-out clips. reversible: mean recall of the classes that another one reverses."""

    top1: float
    reversible: float
    clips: int


def results(runs: Sequence[Path]) -> dict[str, dict[int, Scored]]:
    """{model: {seed: what it scored}} of finished runs."""
    found: dict[str, dict[int, Scored]] = {}
    for path in runs:
        run = json.loads(path.read_text())
        recall = list(run["val"]["recall"].values())
        reversible = statistics.mean(recall[number] for number in _REVERSIBLE)
        found.setdefault(run["model"], {})[run["seed"]] = Scored(run["val"]["top1"], reversible, run["val"]["clips"])
    return found


def difference(one: Mapping[int, Scored], other: Mapping[int, Scored]) -> tuple[float, float, str]:
    """(mean, half width of its 95 % interval, over what) in points of accuracy, over the seeds both have.

    Of one seed there is no spread: then the interval is that of the held-out clips alone.
    """
    seeds = sorted(one.keys() & other.keys())
    points = [100 * (one[seed].top1 - other[seed].top1) for seed in seeds]
    if len(points) > 1:
        spread = _T[len(points)] * statistics.stdev(points) / math.sqrt(len(points))
        return statistics.mean(points), spread, f"{len(points)} seeds"
    a, b = one[seeds[0]], other[seeds[0]]
    variance = sum(x.top1 * (1 - x.top1) / x.clips for x in (a, b))
    return points[0], 196 * math.sqrt(variance), "clips of one seed"


def report(contenders: Mapping[str, Sizes], runs: Sequence[Path], picture: Path | None, turns: int) -> str:
    """The tables; the picture is written, if there is to be one. turns: timed calls of each model; 0: no times."""
    scored = results(runs)
    models = {name: replace(sizes, classes=len(CLASSES)) for name, sizes in contenders.items() if name in scored}
    if YARDSTICK not in models:
        return f"no finished run of {YARDSTICK}: nothing to compare with yet"
    costs = {name: cost(sizes.build()) for name, sizes in models.items()}
    times = _times_ms(models, turns) if turns else {}
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(_picture(scored, costs, times))
    lines = [
        header(describe("torch", "openvino")),
        "ms: medians of CPU time on OpenVINO, fp32, one thread, all models in turns" if times else "",
        "",
        "| model | multiply-adds a clip | a decision | ms of both | accuracy, by seed | of those with a reverse |",
        "|---|---|---|---|---|---|",
        *(_row(name, scored[name], costs[name], times.get(name)) for name in models),
        "",
        "| question | points of accuracy | interval of 95 % over |",
        "|---|---|---|",
    ]
    for what, one, other in QUESTIONS:
        if scored.get(one, {}).keys() & scored.get(other, {}).keys():
            mean, half, over = difference(scored[one], scored[other])
            lines.append(f"| {what} | {mean:+.1f} ± {half:.1f} | {over} |")
    return "\n".join(lines)


def _row(name: str, scored: Mapping[int, Scored], of: Cost, ms: tuple[float, float] | None) -> str:
    seeds = ", ".join(f"{scored[seed].top1:.1%}" for seed in sorted(scored))
    reversible = statistics.mean(one.reversible for one in scored.values())
    both = f"{ms[0]:.2f}, {ms[1]:.2f}" if ms else "not timed"
    return f"| {name} | {of.clip / 1e6:.1f} M | {of.decision / 1e6:.1f} M | {both} | {seeds} | {reversible:.1%} |"


def _times_ms(models: Mapping[str, Sizes], turns: int) -> dict[str, tuple[float, float]]:
    """{model: (a clip, a streamed decision)}, CPU time of one thread, all in turns."""
    with ExitStack() as stack:
        ways = {}
        for name, sizes in models.items():
            model = sizes.build()
            ways[name, "clip"], ways[name, "streamed"] = runs_of(model.stages(), opened(model, stack))
        spent = in_turns(ways, turns)
    return {name: (spent[name, "clip"].cpu_ms, spent[name, "streamed"].cpu_ms) for name in models}


_PANEL_PX, _LEGEND_PX, _HEIGHT_PX = 460, 200, 420
_TICK_PX = 36  # that a number below the axis takes
_LEFT_PX, _TOP_PX, _PLOT_WIDTH_PX, _PLOT_HEIGHT_PX = 50, 44, 380, 320
_OPEN = ", no g"  # is drawn as a ring
# BGR
_COLOURS = {
    "TSN": (120, 120, 120), "TSM": (40, 150, 40), "TSM, online": (120, 200, 90), "VTN": (30, 120, 230),
    "VLF, 1 token": (220, 170, 60), "VLF, 4 tokens": (180, 90, 20), "VLF, 16 tokens": (90, 20, 20),
}  # fmt: skip


def _picture(scored: dict[str, dict[int, Scored]], costs: Mapping[str, Cost], times: Mapping[str, Any]) -> bytes:
    """PNG: accuracy over what a clip and a streamed decision cost. A line from the worst seed to the best, a mark at
    the mean."""
    highest = max(one.top1 for seeds in scored.values() for one in seeds.values())
    top = min(100, 10 * math.ceil(10 * highest + 0.5))
    panels = [
        ("multiply-adds of a clip, M", {name: of.clip / 1e6 for name, of in costs.items()}),
        ("multiply-adds of a decision, M", {name: of.decision / 1e6 for name, of in costs.items()}),
    ]
    if times:
        panels.append(("ms of a decision, one thread", {name: ms[1] for name, ms in times.items()}))
    image = np.full((_HEIGHT_PX, _PANEL_PX * len(panels) + _LEGEND_PX, 3), 255, np.uint8)
    for number, (title, values) in enumerate(panels):
        _panel(image, _LEFT_PX + number * _PANEL_PX, title, values, scored, top)
    for number, name in enumerate(costs):
        place = (_PANEL_PX * len(panels) + 12, _TOP_PX + 24 * number)
        _mark(image, place, name)
        _text(image, name, (place[0] + 12, place[1] + 4))
    return cv2.imencode(".png", image)[1].tobytes()


def _panel(image, left: int, title: str, values: Mapping[str, float], scored: Mapping[str, Any], top: float) -> None:
    """One plot; the horizontal axis is logarithmic."""
    low, high = math.log(0.85 * min(values.values())), math.log(1.15 * max(values.values()))

    def at(value: float, points: float) -> tuple[int, int]:
        x = left + (math.log(value) - low) / (high - low) * _PLOT_WIDTH_PX
        return round(x), round(_TOP_PX + (1 - points / top) * _PLOT_HEIGHT_PX)

    _text(image, f"accuracy, %, over {title}", (left, 24))
    for points in range(0, round(top) + 1, 10):
        y = at(1, points)[1]
        cv2.line(image, (left, y), (left + _PLOT_WIDTH_PX, y), (225, 225, 225), 1)
        _text(image, str(points), (left - 30, y + 4))
    free_px = 0
    for value in _ticks(math.exp(low), math.exp(high)):
        if (x := at(value, 0)[0] - 10) >= free_px:
            _text(image, f"{value:.3g}", (x, _TOP_PX + _PLOT_HEIGHT_PX + 22))
            free_px = x + _TICK_PX
    for name, value in values.items():
        seeds = [100 * one.top1 for one in scored[name].values()]
        colour = _COLOURS[name.removesuffix(_OPEN)]
        cv2.line(image, at(value, min(seeds)), at(value, max(seeds)), colour, 1, cv2.LINE_AA)
        _mark(image, at(value, statistics.mean(seeds)), name)


def _mark(image: np.ndarray, place: tuple[int, int], name: str) -> None:
    colour = _COLOURS[name.removesuffix(_OPEN)]
    cv2.circle(image, place, 5, colour, 2 if name.endswith(_OPEN) else -1, cv2.LINE_AA)


def _ticks(low: float, high: float) -> Sequence[float]:
    steps = (1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 5, 7)
    return [step * 10.0**power for power in range(-3, 6) for step in steps if low <= step * 10.0**power <= high]


def _text(image, text: str, place: tuple[int, int]) -> None:
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
