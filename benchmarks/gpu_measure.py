"""Times of all contenders, what they mean, and the table: everything of gpu.py that knows nothing of a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count as counting
from itertools import cycle
from typing import Any

import numpy as np
import torch
from gpu_contenders import Contender, Decision, Run, empty, graphed, own_stream
from gpu_roofline import Peaks, Work, count, measure_peaks, synchronize
from hardware import header
from torch import Tensor

from vlf_edge import Plan, Runtime, VlfError
from vlf_edge.compiler.graph import Session

PARTS = ("frame", "clip", "decision")
GOAL_STREAMS, GOAL_DECISIONS_HZ = 1000, 10
_DISTINCT = 4  # batches of images that a part sees in turn
Opener = tuple[str, str, Callable[[], Contender]]
# What the goals speak of, first things first, for when there is no time for all.
_FIRST = ("tensorrt + CUDA graph", "tensorrt_rtx + CUDA graph", "torch eager", "torch.compile", "torch CUDA graph")


def measure(
    plans: Mapping[str, Plan],
    contenders: Sequence[Opener],
    images: np.ndarray,
    batches: Sequence[int],
    device: str,
    calls: int,
    progress: Callable[[str, int, int], None],
    *,
    until_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    **peak_sizes: int,
) -> dict[str, Any]:
    """Plain JSON: {"peaks", "peaks_missing", "work", "rows"}. images: (n, H, W, 3) uint8 of the model's size.

    until_s: when to begin nothing more, by the clock; the most important rows are then measured first.
    """
    works = {precision: _works(plan) for precision, plan in plans.items()}
    expected = reference_logits(next(iter(plans.values())), images)
    jobs = [(opener, batch) for opener in contenders for batch in batches]
    if until_s is not None:
        jobs.sort(key=lambda job: importance(job[0][0], job[1], batches))
    opened: dict[tuple[str, str], Contender | None] = {}
    rows: list[dict[str, Any]] = []
    with own_stream(device):
        peaks, missing = measure_peaks(device, **peak_sizes)
        for done, ((name, precision, opener), batch) in enumerate(jobs):
            progress("measure", done, len(jobs))
            if until_s is not None and clock() >= until_s:
                rows.append(not_measured(name, precision, NO_TIME, batch))
                continue
            if (name, precision) not in opened:
                try:
                    opened[name, precision] = opener()
                except Exception as error:  # a library that is absent, broken or refuses this GPU: the others go on
                    rows.append(not_measured(name, precision, error))
                    opened[name, precision] = None
            contender = opened[name, precision]
            if contender is None:
                continue
            try:
                found = list(_rows(contender, plans[precision], images, batch, device, calls, expected))
            except Exception as error:  # lack of memory too
                rows.append(not_measured(name, precision, error, batch))
                continue
            for row in found:
                row.update(_against_roofline(row, works[precision][row["part"]], peaks))
            rows += found
    progress("measure", len(jobs), len(jobs))
    work = {precision: {part: _work_json(one) for part, one in parts.items()} for precision, parts in works.items()}
    return {"peaks": dict(peaks), "peaks_missing": missing, "work": work, "rows": rows}


def importance(name: str, batch: int, batches: Sequence[int]) -> tuple[int, int, int]:
    """To sort by: one stream, then as many as there are, then those between from many to few; and see ``_FIRST``."""
    ends = (min(batches), max(batches))
    return ends.index(batch) if batch in ends else 2, -batch, _FIRST.index(name) if name in _FIRST else len(_FIRST)


def reference_logits(plan: Plan, images: np.ndarray) -> np.ndarray:
    """(C,) of a plan's fp32 graphs, as they are written, on the CPU: a window of the first K images."""
    (tokens,) = Session(plan.graph("frame", "fp32")).run({"image": images[: plan.manifest.sampling.frames]}).values()
    (logits,) = Session(plan.graph("clip", "fp32")).run({"tokens": tokens[np.newaxis]}).values()
    return logits[0]


def _rows(
    contender: Contender, plan: Plan, images: np.ndarray, batch: int, device: str, calls: int, expected: np.ndarray
) -> Iterator[dict[str, Any]]:
    """One for each part."""
    frame, clip = contender.open("frame", batch), contender.open("clip", batch)
    window = plan.manifest.graph("clip", "typed").inputs[0]
    on_device = [torch.from_numpy(stream_images(images, batch, step)).to(device) for step in range(_DISTINCT)]
    random = torch.Generator(device).manual_seed(0)
    windows = [empty(window, batch, device).normal_(generator=random) for _ in range(_DISTINCT)]
    decision = Decision(frame, clip, window, batch, device)
    runs: dict[str, Run] = {"frame": frame, "clip": clip, "decision": decision}
    if contender.graphed:
        runs = {"frame": graphed(frame, on_device[0]), "clip": graphed(clip, windows[0])}
        runs["decision"] = graphed(decision, on_device[0])
    whole = _Whole(runs["decision"], images, batch, device)
    for _ in range(plan.manifest.sampling.frames):
        logits = whole()
    synchronize(device)
    apart = float(np.linalg.norm(logits[0].float().numpy() - expected) / np.linalg.norm(expected))
    difference = apart if contender.same_weights else None
    inputs = {"frame": cycle(on_device), "clip": cycle(windows)}
    for part in PARTS:
        call = whole if part == "decision" else (lambda part=part: runs[part](next(inputs[part])))
        yield {
            "part": part, "engine": contender.name, "precision": contender.precision, "batch": batch,
            **times(call, batch, device, calls), "difference": difference,
        }  # fmt: skip


class _Whole:
    """A decision from host memory to host memory; a call only queues it on a GPU."""

    def __init__(self, run: Run, images: np.ndarray, batch: int, device: str):
        pinned = device != "cpu"
        steps = [torch.from_numpy(stream_images(images, batch, step)) for step in range(min(len(images), 16))]
        self._images = cycle([step.pin_memory() if pinned else step for step in steps])
        self._run, self._device, self._logits = run, device, None

    def __call__(self) -> Tensor:
        logits = self._run(next(self._images).to(self._device, non_blocking=True))
        if self._logits is None:
            self._logits = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=self._device != "cpu")
        return self._logits.copy_(logits, non_blocking=True)


def stream_images(images: np.ndarray, batch: int, step: int) -> np.ndarray:
    """(batch, H, W, 3): the image that each stream sees at a step; stream 0 sees them in order, others begin later."""
    return images[(7 * np.arange(batch) + step) % len(images)]


def times(call: Callable[[], object], batch: int, device: str, calls: int) -> dict[str, float]:
    """p50_ms and p99_ms of single calls; items_per_s of calls queued without waiting. The first calls are not timed."""
    for _ in range(min(10, calls)):
        call()
    singles_ms = []
    synchronize(device)
    for _ in range(calls):
        start_s = time.perf_counter()
        call()
        synchronize(device)
        singles_ms.append((time.perf_counter() - start_s) * 1e3)
    start_s = time.perf_counter()
    for _ in range(calls):
        call()
    synchronize(device)
    items_per_s = calls * batch / (time.perf_counter() - start_s)
    p50_ms, p99_ms = np.percentile(singles_ms, (50, 99))
    return {"p50_ms": float(p50_ms), "p99_ms": float(p99_ms), "items_per_s": items_per_s}


def runtime_row(runtime: Runtime, images: np.ndarray, calls: int) -> dict[str, Any]:
    """The package itself: one stream, each image pushed from host memory, each decision waited for."""
    step_s = runtime.recognizer.sampling.grid_s
    pushed = counting()

    def push() -> None:
        number = next(pushed)
        runtime.push(images[number % len(images)], number * step_s)

    for _ in range(runtime.recognizer.sampling.frames):
        push()
    manifest = runtime.plan.manifest
    about = {"part": "decision", "engine": f"Runtime on {runtime.backend}", "precision": manifest.precision, "batch": 1}
    return {**about, **times(push, 1, "cpu", calls)}  # push waits by itself


NO_TIME = VlfError("no time was left")


def not_measured(name: str, precision: str, error: BaseException, batch: int | None = None) -> dict[str, Any]:
    """The row of what could not run, and why, in one line."""
    problem = error.problem if isinstance(error, VlfError) else str(error)
    why = next(iter(problem.strip().splitlines()), "") or type(error).__name__
    return {"engine": name, "precision": precision, "batch": batch, "not_measured": why[:400]}


def _works(plan: Plan) -> dict[str, Work]:
    frame, clip = (count(plan.graph(stage, "typed")) for stage in ("frame", "clip"))
    return {"frame": frame, "clip": clip, "decision": frame + clip}


def _work_json(work: Work) -> dict[str, Any]:
    layer_bytes = [(layer.weight_bytes, layer.item_bytes) for layer in work.layers]
    return {**vars(work), "multiply_adds": dict(work.multiply_adds), "layers": layer_bytes}


def _against_roofline(row: Mapping[str, Any], work: Work, peaks: Peaks) -> dict[str, Any]:
    """{"roofline_ms", "roofline_share"} of the stage and {"layers_ms", "layers_share"} of its layers: the least time,
    and that over the time of a queued call; None if a peak it needs was not measured."""
    batch, found = row["batch"], {}
    for name, least_s in (("roofline", work.least_s(batch, peaks)), ("layers", work.layers_s(batch, peaks))):
        found[f"{name}_ms"] = None if least_s is None else least_s * 1e3
        found[f"{name}_share"] = None if least_s is None else least_s * row["items_per_s"] / batch
    return found


def goals(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the rows say about the goals, one line each: only what was measured."""
    measured = [row for row in rows if "not_measured" not in row]
    decisions = [row for row in measured if row["part"] == "decision"]
    ours = [row for row in measured if row["engine"].startswith("tensorrt")]
    lines = []
    first = [row for row in ours if row["part"] == "decision" and row["batch"] == 1]
    for name, wanted in (("torch eager", 4), ("torch.compile", 1.5)):
        for precision in ("fp32", "fp16"):
            theirs = [r for r in decisions if (r["engine"], r["precision"], r["batch"]) == (name, precision, 1)]
            if first and theirs:
                fastest = min(first, key=lambda row: row["p50_ms"])
                ratio = theirs[0]["p50_ms"] / fastest["p50_ms"]
                who = f"{fastest['engine']} {fastest['precision']}"
                lines.append(f"one stream: {who} is {ratio:.2f} times as fast as {name} {precision} (goal: {wanted})")
    shares = [row for row in ours if row["part"] != "decision" and row["layers_share"] is not None]
    for part in ("frame", "clip"):
        of_part = [row for row in shares if row["part"] == part]
        if of_part:
            top = max(of_part, key=lambda row: (row["batch"], row["layers_share"]))
            share = f"{top['layers_share']:.0%} of its layers' roofline (goal: 50 %)"
            if top["roofline_share"] is not None:
                share += f", {top['roofline_share']:.0%} of the stage's"
            lines.append(f"{part}, batch {top['batch']}: {top['engine']} {top['precision']} reaches {share}")
    if decisions:
        best = max(decisions, key=lambda row: row["items_per_s"])
        streams = int(best["items_per_s"] / GOAL_DECISIONS_HZ)
        lines.append(
            f"capacity: {streams} streams of {GOAL_DECISIONS_HZ} decisions a second (goal: {GOAL_STREAMS}), computed "
            f"from {best['items_per_s']:.0f} decisions/s of {best['engine']} {best['precision']} at batch "
            f"{best['batch']}; no cameras were run"
        )
    return lines or ["nothing was measured that a goal speaks of"]


def table(figures: Mapping[str, Any]) -> str:
    """For people."""
    machine = figures["machine"]
    gpu, peaks = machine["gpu"], figures["peaks"]
    lines = [
        header(machine),
        f"{gpu['name']}, compute capability {gpu['compute_capability']}, driver {gpu['driver']}, power limit "
        f"{gpu['power_limit']}, up to {gpu['max_clock']}",
        f"{figures['model']}, {figures['weights']}, images of {figures['source']}, {figures['calls']} calls each",
        "measured at most: "
        + ", ".join(f"{kind} {rate / 1e12:.1f} T multiply-adds/s" for kind, rate in peaks.items() if kind != "copy")
        + f", copy {peaks['copy'] / 1e9:.0f} GB/s",
        *(f"not measured: peak of {kind}: {why}" for kind, why in figures["peaks_missing"].items()),
        "",
        f"{'part':8s} {'engine':26s} {'':5s} {'batch':>5s} {'p50 ms':>9s} {'p99 ms':>9s} {'items/s':>10s} "
        f"{'of stage':>8s} {'of layers':>9s} {'difference':>10s}",
    ]
    measured = [row for row in figures["rows"] if "not_measured" not in row]
    for row in sorted(measured, key=lambda row: (PARTS.index(row["part"]), row["batch"])):
        shares = ["" if row.get(name) is None else f"{row[name]:.1%}" for name in ("roofline_share", "layers_share")]
        difference = row.get("difference")
        lines.append(
            f"{row['part']:8s} {row['engine']:26s} {row['precision']:5s} {row['batch']:5d} {row['p50_ms']:9.3f} "
            f"{row['p99_ms']:9.3f} {row['items_per_s']:10.0f} {shares[0]:>8s} {shares[1]:>9s} "
            f"{'' if difference is None else format(difference, '.1e'):>10s}"
        )
    for row in figures["rows"]:
        if "not_measured" in row:
            at = "" if row["batch"] is None else f" at batch {row['batch']}"
            lines.append(f"not measured: {row['engine']} {row['precision']}{at}: {row['not_measured']}")
    for row in figures.get("starts", ()):
        said = row.get("not_measured") or f"{row['first_decision_s']:.2f} s with {row['kept']} kept"
        lines.append(f"first decision: {row['engine']} {row['precision']}: {said}")
    return "\n".join([*lines, "", *goals(figures["rows"])])
