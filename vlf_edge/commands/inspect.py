"""Show everything a plan says about itself: model, input, sampling, precision, calibration, accuracy, engines."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from ..errors import PlanError
from ..golden_windows import ABOUT, FRAMES, read_golden
from ..printable import printable
from .enrol import head_rows
from .report import Times, accuracy_rows, hygiene_rows

if TYPE_CHECKING:
    from ..manifest import Manifest
    from ..plan import Plan

HELP = "show what a plan holds and how it was made"
RANDOM_WEIGHTS = "RANDOM WEIGHTS, never trained: labels mean nothing"
_LABELS_SHOWN = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN", help="a vlf.plan")
    parser.add_argument(
        "--verify", action="store_true", help="also read every member, check its SHA-256, and look through every graph"
    )
    parser.add_argument("--json", action="store_true", help="print the manifest and the report as JSON")


def main(args: argparse.Namespace) -> int:
    """Prints the plan's description."""
    from ..plan import Plan

    plan = Plan.open(args.plan)
    if args.verify:
        plan.verify()
        read_golden(plan)
    if args.json:
        json.dump(to_json(plan), sys.stdout, indent=1)
        print()
    else:
        print(describe(plan))
        if args.verify:
            print(f"verified    all {len(plan.manifest.members)} members match their SHA-256")
    return 0


def to_json(plan: Plan) -> dict[str, Any]:
    """Manifest, report and digest as plain JSON values."""
    return {"path": str(plan.path), "digest": plan.digest, "manifest": plan.manifest.to_json(), "report": plan.report}


def describe(plan: Plan, times: Times | None = None) -> str:
    """The plan in a few lines of text, with times where there are any. Raises PlanError for one that lacks what is
    shown here."""
    try:
        return _describe(plan, times)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise PlanError(f"{plan.path} opens, but its report or calibration record is not sound ({error!r})") from None


def _describe(plan: Plan, times: Times | None) -> str:
    manifest = plan.manifest
    size_mb = sum(entry["bytes"] for entry in manifest.members.values()) / 1e6
    rows = [
        ("plan", f"{plan.path}, {size_mb:.1f} MB, sha256 {plan.digest[:16]}"),
        ("model", f"{manifest.model.get('name', '?')}, backbone {manifest.model.get('backbone', '?')}"),
        ("weights", _weights(manifest)),
        ("labels", _labels(manifest.labels)),
        *_head(manifest),
        ("input", _input(manifest)),
        ("sampling", _sampling(manifest)),
        ("precision", _precision(manifest)),
        *_quantization(manifest),
        *hygiene_rows(plan.report),
        *accuracy_rows(plan.report, times),
        _golden(plan),
        *_engines(manifest),
        ("made with", ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))),
    ]
    return "\n".join(f"{name:11s} {printable(text)}" for name, text in rows)


def _weights(manifest: Manifest) -> str:
    if manifest.random_weights:
        return RANDOM_WEIGHTS
    record = manifest.weights.get("record", {})
    trained = "from a file"
    if "data" in record:  # quoted: what a file says of itself must not steer the terminal
        settings = record.get("settings")
        acts = settings.get("acts") if isinstance(settings, dict) else None
        trained = f"trained on {record['data']!r}, {record.get('clips', '?')!r} clips"
        trained += f", {acts!r} of them of made-up acts" if acts else ""
    return f"{trained}, sha256 {str(manifest.weights.get('sha256', '?'))[:16]}"


def _labels(labels: tuple[str, ...]) -> str:
    more = f" and {len(labels) - _LABELS_SHOWN} more" if len(labels) > _LABELS_SHOWN else ""
    return f"{len(labels)}: {', '.join(labels[:_LABELS_SHOWN])}{more}"


def _head(manifest: Manifest) -> list[tuple[str, str]]:
    """What it decides by, where that is not the model's last layer."""
    if manifest.head is None:
        return []
    head = manifest.head
    size_kb = sum(array.size_bytes for array in head.arrays) / 1e3
    text = f"reads {' and '.join(head.reads)}, {size_kb:.1f} kB; the model's own: {_labels(head.classes)}"
    return [("head", text), *(("", f"  {row}") for row in head_rows(head.record))]


def _input(manifest: Manifest) -> str:
    p = manifest.preprocess
    return f"{p.width_px}x{p.height_px} px from the centre, short side {p.short_side_px} px, BGR uint8"


def _sampling(manifest: Manifest) -> str:
    s = manifest.sampling
    rate = f"{1 / s.grid_s:.3g} decisions a second"
    return f"{s.frames} frames over {s.span_s:g} s, one every {s.step_s:.3g} s, {s.phases} phase(s): {rate}"


def _precision(manifest: Manifest) -> str:
    if manifest.precision != "int8":
        return manifest.precision
    counts = manifest.quantization.get("int8_nodes", {})
    nodes = ", ".join(f"{count} nodes of the {stage} stage" for stage, count in counts.items())
    return f"int8 ({nodes}); the rest fp16 on GPUs, float on CPUs"


def _quantization(manifest: Manifest) -> list[tuple[str, str]]:
    q = manifest.quantization
    if not q:
        return []
    text = f"{q['method']} {q['percentile']}" if "percentile" in q else q["method"]
    if "windows" in q:
        text += f" on {q['windows']} windows, {q['frames']} frames of {len(q['clips'])} clip(s)"
        text += f", sha256 {q['sha256'][:16]}"
    rows = [("calibration", text)]
    for stage, kept in q["kept_float"].items():
        reasons: dict[str, int] = {}
        for reason in kept.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        rows += [("in float", f"{count} nodes of the {stage} stage: {reason}") for reason, count in reasons.items()]
    return rows


def _golden(plan: Plan) -> tuple[str, str]:
    golden = read_golden(plan)
    if golden is None:
        return "golden", "golden windows: none; engines are not held to any where they start"
    size_mb = sum(plan.manifest.members[name]["bytes"] for name in (ABOUT, FRAMES)) / 1e6
    return (
        "golden",
        f"golden windows: {len(golden)}, {len(golden.frames)} images, {size_mb:.1f} MB; an engine's logits may be off "
        f"by {golden.allowed:.1%}",
    )


def _engines(manifest: Manifest) -> list[tuple[str, str]]:
    portable = {manifest.graph(stage, "portable").member for stage in manifest.stages}
    rows = [("runs on", f"any CPU, from {', '.join(sorted(portable))}")]
    targets: dict[str, list[Any]] = {}
    for engine in manifest.engines:
        targets.setdefault(engine.target, []).append(engine)
    for target, engines in targets.items():
        first = engines[0]
        where = (
            f"built on {first.device}"
            if first.device
            else "compute capability " + ", ".join(first.compute_capabilities)
        )
        size_mb = sum(manifest.members[engine.member]["bytes"] for engine in engines) / 1e6
        rows.append(
            ("", f"{target}: {first.library} {first.version}, {where}, batch 1 to {first.max_batch}, {size_mb:.1f} MB")
        )
    return rows
