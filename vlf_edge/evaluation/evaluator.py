"""The whole evaluation of a plan, from its file and the name of a data set to a report. Start reading here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ..errors import VlfError
from ..head import UNKNOWN
from ..plan import Plan
from ..runtime.event_settings import EventSettings
from ..runtime.runtime import Runtime
from ..runtime.stats import Stats
from . import metrics
from .classifier import Classifier, columns_of, open_classifier
from .event_streams import evaluate_events
from .live import play
from .reference import open_reference
from .scores import Progress, Scores, contrast, rounded, score, summarize
from .unknown import has_unknown, measure_unknown, none_clips

if TYPE_CHECKING:
    from ..datasets import ClipDataset

_SEEDS = 1 << 19  # of rendered data sets: beyond, their clips' own seeds would not fit into 63 bits
_STAGES = ("frame_stage", "clip_stage", "decision")


def evaluate(
    plan: str | os.PathLike[str] | Plan,
    data: str,
    *,
    split: str = "test",
    against: str | None = None,
    live: bool = False,
    events: EventSettings | None = None,
    nothing: Sequence[str] = (),
    backend: str = "auto",
    device: int = 0,
    rebuild: str = "auto",
    cuda_graph: bool = True,
    threads: int | None = None,
    self_test: bool = True,
    batch: int = 8,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures a plan on labelled clips. Returns plain JSON values.

    data, split, limit, seed: see ``open_dataset``. against: what to compare with, see ``open_reference``. live: also
    play the same clips through the streaming pipeline. events: also judge events, made with these settings, on streams
    made of the same data, and on the sources ``nothing``, in which none of the actions happens: on those, and on the
    class "unknown" of the data where the plan knows it, false accepts are told too. backend, device, rebuild,
    cuda_graph, threads: see ``open_engines``; self_test: see ``Runtime``. batch: clips, frames and windows at a time.
    progress: called with (what, done, total).

    The report holds what ran on what, the files that are missing, what ``summarize`` gives, latency_ms {stage: {p50,
    p99}}, and, where asked for, "against" (what ``contrast`` gives), "live" (clips, windows, top1, clip_top1 on the
    same clips, their agreement, too_short, broken, latency_ms), "events" (what ``evaluate_events`` gives) and "unknown"
    (what ``measure_unknown`` gives; also wherever the plan knows it). Raises PlanError, BackendMissing, WeightsError,
    SourceError, and VlfError for data whose labels are not the plan's, for settings of events that do not fit it, and
    for NaN logits.
    """
    if batch < 1:
        raise VlfError(f"the batch is {batch}; expected 1 or more clips")
    if not 0 <= seed < _SEEDS:
        raise VlfError(f"the seed is {seed}; expected a whole number from 0 to {_SEEDS - 1}")
    plan = plan if isinstance(plan, Plan) else Plan.open(plan)
    stats = Stats()
    with ExitStack() as stack:
        on: dict[str, Any] = {"backend": backend, "device": device, "rebuild": rebuild}
        on |= {"cuda_graph": cuda_graph, "threads": threads, "self_test": self_test}
        model = stack.enter_context(open_classifier(plan, **on))
        if rebuild == "always":  # what was built a moment ago is new enough for what else is opened
            on["rebuild"] = "auto"
        dataset = _open(data, model, split, limit, seed)
        models: list[Classifier] = [model]
        if against is not None:
            models.append(stack.enter_context(open_reference(against, plan, **on)))
            columns_of(model.labels, models[1])  # other classes are found out before the clips are run
        together = [m for m in models if m.sees_as(model)]
        found = score(together, dataset, batch=batch, stats=stats, progress=progress)
        if len(together) < len(models):
            # A reference of other sizes gets the same clips, cut and sampled as it was trained to see them.
            theirs = _open(data, models[1], split, limit, seed, model.labels)
            found += score(models[1:], theirs, batch=batch, progress=progress)
    report = _head(plan, model, dataset, split) | summarize(found[0], dataset.labels)
    report["latency_ms"] = _latency(stats)
    if against is not None:
        report["against"] = {"name": models[1].name, "backend": models[1].backend}
        report["against"] |= contrast(found[1], found[0], dataset.labels)
    if live:
        report["live"] = _live(plan, dataset, found[0], on, progress)
    if events is not None:
        whole = dataset if str(data) == "motion" else _open(data, model, "all", None, seed)
        report["events"] = evaluate_events(plan, dataset, whole, events, nothing=nothing, on=on, progress=progress)
    clips_of_nothing = none_clips(nothing, dataset)
    if clips_of_nothing or (plan.manifest.head and plan.manifest.head.unknown):
        with Runtime(plan, **on) as runtime:
            report["unknown"] = measure_unknown(runtime, clips_of_nothing, found[0], progress)
    return report


def _open(
    data: str,
    model: Classifier,
    split: str,
    limit: int | None,
    seed: int,
    labels: tuple[str, ...] | None = None,
) -> ClipDataset:
    """The data set, cut and sampled as the model wants it."""
    from ..datasets import open_dataset

    sampling, labels = model.sampling, labels or model.labels
    asked = labels[:-1] if labels[-1] == UNKNOWN and not has_unknown(data) else labels
    dataset = open_dataset(
        data,
        split,
        sampling=sampling,
        preprocess=model.preprocess,
        frames=sampling.frames,
        span_s=sampling.span_s,
        labels=asked,
        seed=seed,
        limit=limit,
    )
    dataset.labels = labels  # with "unknown" for a decision, though no clip may be of it
    return dataset


def _head(plan: Plan, model: Classifier, dataset: ClipDataset, split: str) -> dict[str, Any]:
    from ..datasets import VideoDataset

    manifest = plan.manifest
    return {
        "plan": str(plan.path),
        "digest": plan.digest,
        "model": manifest.model.get("name"),
        "precision": manifest.precision,
        "backend": model.backend,
        "random_weights": manifest.random_weights,
        "data": dataset.name,
        "split": split,
        "missing": list(dataset.missing) if isinstance(dataset, VideoDataset) else [],
        "frames": manifest.sampling.frames,
        "span_s": manifest.sampling.span_s,
        "labels": list(dataset.labels),
    }


def _live(
    plan: Plan, dataset: ClipDataset, clip_scores: Scores, on: dict[str, Any], progress: Progress | None
) -> dict[str, Any]:
    """Plays the clips that clip mode could read, and compares the two modes on those that gave a decision.

    on: what to run them on, as ``Runtime`` takes it.
    """
    with Runtime(plan, **on) as runtime:
        scores, too_short, windows = play(runtime, dataset, clip_scores.indices, progress=progress)
        latency = _latency(runtime.recognizer.stats)
    report: dict[str, Any] = {"clips": len(scores.indices), "windows": windows}
    if len(scores.indices):
        same = clip_scores.only(scores.indices)
        report["top1"] = rounded(metrics.top_k(scores.logits, scores.truth))
        report["clip_top1"] = rounded(metrics.top_k(same.logits, same.truth))
        report["agreement"] = rounded(metrics.agreement(same.logits, scores.logits))
    else:
        report |= dict.fromkeys(("top1", "clip_top1", "agreement"))
    return report | {"too_short": too_short, "broken": scores.broken, "latency_ms": latency}


def _latency(stats: Stats) -> dict[str, dict[str, float]]:
    spreads = stats.summary()["ms"]
    return {stage: {p: spreads[stage][p] for p in ("p50", "p99")} for stage in _STAGES if stage in spreads}
