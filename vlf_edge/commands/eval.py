"""Measure a plan on labelled clips: how often it is right, how sure it is, how fast, and how far from a reference.

vlf-edge eval vlf.plan motion                              on rendered clips; needs no files
vlf-edge eval vlf.plan my-clips/ --live                    also through the streaming pipeline, as a camera would
vlf-edge eval vlf.plan my-clips/ --against fp32            what quantisation did
vlf-edge eval mine.plan my-clips/ --none clips/nothing/    also false accepts an hour, and misses
vlf-edge eval vlf.plan my-clips/ --events                  also what happened when, and how often nothing was an event
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ..errors import VlfError
from ..printable import printable
from .backend import add_backend_arguments, backend_options
from .event_options import add_event_arguments, event_settings
from .progress import Progress

HELP = "measure a plan on labelled clips"
_NAMES_SHOWN = 3
_NAME_CHARACTERS = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", metavar="PLAN", help="a vlf.plan")
    add("data", metavar="DATA", help="motion (rendered), a folder of class/clip.mp4, or an annotation file")
    add("--split", choices=("train", "val", "test", "all"), default="test", help="part of the data (default: test)")
    add(
        "--against",
        metavar="REF",
        help="compare with another plan, a weights file (needs PyTorch), or fp32: the plan's own unquantised graphs",
    )
    add("--live", action="store_true", help="also play the same clips through the streaming pipeline")
    add("--confusion", metavar="FILE.png", help="draw the confusion matrix")
    add_backend_arguments(parser)
    add("--batch", type=int, default=8, metavar="N", help="clips taken at a time (default: 8)")
    add("--limit", type=int, metavar="N", help="at most this many clips (default: all)")
    add("--seed", type=int, default=0, metavar="N", help="of rendered clips (default: 0)")
    add("--json", action="store_true", help="print the whole report as JSON")
    add_event_arguments(parser, "also judge events, on streams made of the same clips and on annotated videos")
    add("--none", nargs="+", default=[], metavar="SOURCE", help="clips of nothing: false accepts are told too")


def main(args: argparse.Namespace) -> int:
    """Measures and prints a table."""
    from ..evaluation import draw_confusion, evaluate, save_picture
    from ..evaluation.picture import check_picture
    from .bench import cpu_model

    for name in ("batch", "limit"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise VlfError(f"--{name} is {value}; expected 1 or more")
    if args.confusion:
        check_picture(args.confusion)
    events = event_settings(args)
    names = ("split", "against", "live", "batch", "limit", "seed")
    options = {name: getattr(args, name) for name in names} | backend_options(args)
    report = evaluate(args.plan, args.data, progress=Progress(), events=events, nothing=args.none, **options)
    report["cpu"] = cpu_model()
    if args.confusion:
        title = f"{report['model']} {report['precision']}: top-1 {_percent(report['top1'])} of {report['clips']} clips"
        save_picture(args.confusion, draw_confusion(report["confusion"], report["labels"], title))
    if args.json:
        json.dump(report, sys.stdout, indent=1)
        print()
    else:
        print(describe(report))
    return 0


def describe(report: dict[str, Any]) -> str:
    """The report of ``evaluation.evaluate`` in a few lines of text and a table of classes."""
    from ..runtime.sinks import RANDOM_WEIGHTS_NOTE

    rows = [
        f"{report['model']} {report['precision']} on {report['backend']}: {report['clips']} clips of {report['data']} "
        f"({report['split']}), {report['frames']} frames over {report['span_s']:g} s",
        *([RANDOM_WEIGHTS_NOTE] if report["random_weights"] else []),
        _overall(report),
        *_named("file(s) that the annotation names are not there", report["missing"]),
        *_named("clip(s) could not be read", report["broken"]),
        *_live(report.get("live")),
        *_against(report.get("against")),
        *_unknown(report.get("unknown")),
        *_events(report.get("events")),
        "",
        *_classes(report),
        *_worst(report["worst_confusions"]),
        "",
        *_latency(report),
    ]
    return "\n".join(map(printable, rows))


def _overall(report: dict[str, Any]) -> str:
    # Among five classes the truth is always one of the best five.
    top5 = f"top-5 {_percent(report['top5'])}, " if len(report["labels"]) > 5 else ""
    return (
        f"top-1 {_percent(report['top1'])}, {top5}mean recall of the classes {_percent(report['class_recall'])}, "
        f"expected calibration error {report['calibration_error']:.3f}"
    )


def _live(live: dict[str, Any] | None) -> list[str]:
    if live is None:
        return []
    rows = ["live: no clip gave a decision"]
    if live["clips"]:
        rows = [
            f"live: top-1 {_percent(live['top1'])}, clip by clip {_percent(live['clip_top1'])} of the same "
            f"{live['clips']} clips; the same decision on {_percent(live['agreement'])}; {live['windows']} windows"
        ]
    rows += _named("clip(s) are too short for one live window", live["too_short"])
    return rows + _named("clip(s) could not be played", live["broken"])


def _events(events: dict[str, Any] | None) -> list[str]:
    if events is None:
        return []
    rows = ["events: no stream with an action in it"]
    if events["streams"]:
        rows = [
            f"events: F1 {_between(events, 'f1')}, precision {_between(events, 'precision')}, recall "
            f"{_between(events, 'recall')} of {events['actions']} actions in {events['streams']} streams, "
            f"{60 * events['hours']:.3g} minutes; right is the label with an overlap of {events['least_iou']:g}",
            f"  median error of the start {_between(events, 'start_error_s', ' s')}, without the sign "
            f"{_between(events, 'start_abs_error_s', ' s')}; of the end {_between(events, 'end_error_s', ' s')} and "
            f"{_between(events, 'end_abs_error_s', ' s')}",
            f"  told {_between(events, 'told_after_s', ' s')} after the action began; "
            f"{_between(events, 'false_per_hour')} false events an hour",
        ]
    nothing = events["nothing"]
    if nothing["streams"]:
        rate = {"false_per_hour": nothing["false_per_hour"], "intervals": {"false_per_hour": nothing["interval"]}}
        rows.append(
            f"  where nothing happens: {nothing['events']} events in {60 * nothing['hours']:.3g} minutes, "
            f"{_between(rate, 'false_per_hour')} an hour"
        )
    return rows + _named("stream(s) could not be played", events["broken"])


def _between(figures: dict[str, Any], name: str, unit: str = "") -> str:
    """A figure and its interval."""
    value, (low, high) = figures[name], figures["intervals"][name]
    if value is None:
        return "-"
    digits = ".3f" if name in ("f1", "precision", "recall") else "+.2f" if name.endswith("_error_s") else ".2f"
    digits = ".2f" if "_abs_" in name else digits
    return f"{value:{digits}}{unit} ({low:{digits}} to {high:{digits}})"


def _against(against: dict[str, Any] | None) -> list[str]:
    if against is None:
        return []
    return [
        f"against {against['name']} on {against['backend']}: top-1 {_percent(against['top1'])}, it has "
        f"{_percent(against['reference_top1'])}; the same decision on {_percent(against['agreement'])} of "
        f"{against['clips']} clips; KL {against['kl_nats']:.3g} nats, logits at most "
        f"{against['max_abs_logits']:.3g} apart"
    ]


def _unknown(unknown: dict[str, Any] | None) -> list[str]:
    if unknown is None:
        return []
    rows = [] if unknown["misses"] is None else [f"unknown: {_percent(unknown['misses'])} of the clips missed"]
    if unknown["clips"]:
        hourly = unknown["false_accepts_per_hour"]
        rows.append(
            f"of {unknown['clips']} clips of nothing, {unknown['hours'] * 60:.1f} minutes: {unknown['false_accepts']} "
            f"false accepts, {hourly:.3g} an hour; {_percent(unknown['windows_accepted'])} of {unknown['windows']} "
            f"windows; AUROC {unknown['auroc']:.3f}"
        )
    return rows + _named("clip(s) of nothing could not be played", unknown["broken"])


def _classes(report: dict[str, Any]) -> list[str]:
    """One row a class; with a reference, the difference of recall in percentage points."""
    differences = report.get("against", {}).get("per_class", {})
    labels = [_shortened(label) for label in report["labels"]]
    width = max(len("class"), *map(len, labels))
    rows = [f"{'class':{width}s} {'clips':>6s} {'recall':>8s}" + f" {'against':>9s}" * bool(differences)]
    for name, label in zip(labels, report["labels"]):
        entry = report["per_class"][label]
        row = f"{name:{width}s} {entry['clips']:6d} {_percent(entry['recall']):>8s}"
        if differences:
            change = differences[label]
            row += f" {'-' if change is None else f'{100 * change:+.1f}':>9s}"
        rows.append(row)
    return rows


def _worst(confusions: list[dict[str, Any]]) -> list[str]:
    told = [f"{_shortened(pair['truth'])} for {_shortened(pair['decided'])} ({pair['clips']})" for pair in confusions]
    return ["", f"most often mistaken: {', '.join(told)}"] if told else []


def _latency(report: dict[str, Any]) -> list[str]:
    """Clip by clip, a decision is both stages; live, also the preprocessing of the frame."""
    modes = {"": report["latency_ms"]} | ({"live ": report["live"]["latency_ms"]} if "live" in report else {})
    rows = [f"{'ms':18s} {'p50':>8s} {'p99':>8s}"]
    for mode, spreads in modes.items():
        for stage, spread in spreads.items():
            rows.append(f"{mode + stage.replace('_', ' '):18s} {spread['p50']:8.2f} {spread['p99']:8.2f}")
    return rows


def _named(what: str, names: Any) -> list[str]:
    """How many, and the first few of them."""
    if not names:
        return []
    shown = ", ".join(list(names)[:_NAMES_SHOWN])
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return [f"{len(names)} {what}: {shown}{more}"]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _shortened(label: str) -> str:
    label = printable(label)
    return label if len(label) <= _NAME_CHARACTERS else f"{label[: _NAME_CHARACTERS - 2]}.."
