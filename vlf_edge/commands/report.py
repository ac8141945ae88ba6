"""A plan's report as text: how near every way of running it comes to fp32, what its gate said, what calibrated it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = tuple[str, str]  # what is told, and the telling
Times = Mapping[str, Mapping[str, float]]  # {way: {stage: ms}}, see compiler.timing.plan_times
_WORST_SHOWN = 3
_CLASSES_SHOWN = 8
# Heading, stage and name of the errors; the logits' own errors are those of the whole way from a frame to them.
_COLUMNS = (
    ("accuracy", "end_to_end", "accuracy"),
    ("same top-1", "end_to_end", "top1_agreement"),
    ("rel. frame", "frame", "relative"),
    ("rel. clip", "clip", "relative"),
    ("end to end", "end_to_end", "relative"),
    ("max abs", "end_to_end", "max_abs"),
    ("cosine", "end_to_end", "cosine_min"),
)
_SHARES = ("accuracy", "top1_agreement")


def accuracy_rows(report: Mapping[str, Any], times: Times | None = None) -> list[Row]:
    """The measured ways as a table, then the gate. times: shown beside each way, if given."""
    fidelity = report.get("fidelity")
    if not fidelity:
        return [("accuracy", "not measured")]
    seen = "held-out" if fidelity["held_out"] else "the calibration's own"
    on = "" if fidelity["on"] == "clips" else f" of {fidelity['on']}"
    known = f", {fidelity['labelled']} of known class" if fidelity["labelled"] else ""
    head = f"on {fidelity['windows']} {seen} windows{on}{known}; errors are relative to fp32 onnx, ms of this machine"
    rows = [("accuracy", head if times else head.split(", ms")[0])]
    rows += [("", f"  {line}") for line in _table(fidelity["rows"], times or {})]
    engines = _engine_rows(report.get("engines", {}))
    return [*rows, *_gate_rows(report["gate"]), *engines, *_best_rows(report.get("best"))]


def hygiene_rows(report: Mapping[str, Any]) -> list[Row]:
    """What the calibration clips covered, and how much of the activations the ranges cut off."""
    calibration = dict(report.get("calibration", {}))
    coverage = calibration.pop("coverage", {})
    rows = []
    if coverage:
        missing = [label for label, (calibrating, _) in coverage.items() if not calibrating]
        text = f"{len(coverage) - len(missing)} of {len(coverage)} classes calibrate"
        text += f" on {_span([n for n, _ in coverage.values()])} windows each"
        text += f" and are measured on {_span([n for _, n in coverage.values()])}"
        if missing:
            more = f" and {len(missing) - _CLASSES_SHOWN} more" if len(missing) > _CLASSES_SHOWN else ""
            text += f"; without: {', '.join(missing[:_CLASSES_SHOWN])}{more}"
        rows.append(("coverage", text))
    shares = [
        (share, f"{stage} {name}") for stage, part in calibration.items() for name, share in part["clipped"].items()
    ]
    worst = sorted(shares, key=lambda pair: (-pair[0], pair[1]))[:_WORST_SHOWN]
    if worst:
        named = ", ".join(f"{name} {share:.3%}" for share, name in worst)
        rows.append(("clipped", f"at most {worst[0][0]:.3%} of the values of {len(shares)} tensors: {named}"))
    return rows


def _table(rows: Sequence[Mapping[str, Any]], times: Times) -> list[str]:
    """Aligned lines; a column that no row has anything for is left out."""
    stages = list(dict.fromkeys(stage for by_stage in times.values() for stage in by_stage))
    lines = [["", *(heading for heading, _, _ in _COLUMNS), *(f"{stage} ms" for stage in stages)]]
    for row in rows:
        cells = [_cell(row, part, name) for _, part, name in _COLUMNS]
        taken = times.get(row["way"], {})
        lines.append([row["way"], *cells, *(f"{taken[stage]:.2f}" if stage in taken else "" for stage in stages)])
    kept = [i for i in range(len(lines[0])) if any(line[i] for line in lines[1:])]
    widths = {i: max(len(line[i]) for line in lines) for i in kept}
    shown = []
    for line, row in zip(lines, [{}, *rows]):
        cells = [line[0].ljust(widths[0]), *(line[i].rjust(widths[i]) for i in kept if i)]
        shown.append(f"{cells[0]}  {row['failed']}" if "failed" in row else "  ".join(cells).rstrip())
    return shown


def _cell(row: Mapping[str, Any], part: str, name: str) -> str:
    errors = row.get(part, {})
    if name not in errors:
        return ""
    value = errors[name]
    if value is None:
        return "NaN"
    return f"{value:.1%}" if name in _SHARES else f"{value:.5f}" if name == "cosine_min" else f"{value:.2g}"


def _gate_rows(gate: Mapping[str, Any]) -> list[Row]:
    from ..compiler.accuracy.gate import verdict_text

    if "none" in gate:
        return [("gate", f"none: {gate['none']}")]
    rows = [("gate", f"{'passed' if gate['passed'] else 'FAILED'}: {verdict_text(gate)}")]
    if gate["restored"]:
        rows.append(("", f"  all nodes in int8: {verdict_text(gate['before'])}; so these are in float again:"))
        rows += [
            ("", f"  {e['stage']} {e['node']}, which alone lowers the logits' relative error by {e['gain']:.2g}")
            for e in gate["restored"]
        ]
    return rows


def _engine_rows(engines: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Which engines all of the above does not tell of."""
    return [("unproven", f"engine {target}: {e['why']}") for target, e in engines.items() if not e["measured"]]


def _best_rows(best: Mapping[str, Any] | None) -> list[Row]:
    return [("best", f"{best['kept']}: {best['why']}")] if best else []


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
