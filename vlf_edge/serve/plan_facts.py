"""Which plan runs on which engine, and how near that comes to fp32: a few facts, from a file of a stranger."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..backends.table import GPU_BACKENDS
from ..errors import VlfError
from ..plan import Plan
from ..printable import printable

_GATE = ("passed", "measure", "windows", "drop_points", "max_drop_points", "way")
_FIDELITY = ("accuracy", "top1_agreement", "relative")


def plan_facts(plan: Plan, backend: str, grid_s: float) -> dict[str, Any]:
    """Plain JSON values; "gate" and "fidelity" are None where the report does not hold them. backend: what the plan
    runs on. grid_s: how often it decides."""
    manifest = plan.manifest
    try:
        report: Mapping[str, Any] = plan.report
    except VlfError:
        report = {}
    return {
        "file": printable(plan.path.name),
        "digest": plan.digest[:16],
        "model": _plain(manifest.model.get("name", "?")),
        "precision": manifest.precision,
        "backend": backend,
        "device": _device(plan, backend),
        "classes": len(manifest.labels),
        "frames": manifest.sampling.frames,
        "span_s": manifest.sampling.span_s,
        "decisions_per_s": round(1 / grid_s, 3),
        "random_weights": manifest.random_weights,
        "gate": _gate(report.get("gate")),
        "fidelity": _fidelity(report.get("fidelity"), f"{manifest.precision} {backend}"),
    }


def _device(plan: Plan, backend: str) -> str:
    if backend not in GPU_BACKENDS:
        return "CPU"
    built_on = {engine.device for engine in plan.manifest.engines if engine.library == backend}
    return f"GPU, {printable(built_on.pop())}" if len(built_on) == 1 and "" not in built_on else "GPU"


def _gate(gate: Any) -> dict[str, Any] | None:
    if not isinstance(gate, Mapping):
        return None
    if "none" in gate:
        return {"none": _plain(gate["none"])}
    return {name: _plain(gate.get(name)) for name in _GATE}


def _fidelity(fidelity: Any, way: str) -> dict[str, Any] | None:
    """What was measured of this way of running the plan against fp32."""
    if not isinstance(fidelity, Mapping) or not isinstance(fidelity.get("rows"), list):
        return None
    for row in fidelity["rows"]:
        if isinstance(row, Mapping) and row.get("way") == way and isinstance(row.get("end_to_end"), Mapping):
            found = {name: _plain(row["end_to_end"].get(name)) for name in _FIDELITY}
            return {"way": way, "windows": _plain(fidelity.get("windows")), **found}
    return None


def _plain(value: Any) -> Any:
    """A value that is short, printable JSON; None for what is not."""
    if isinstance(value, (bool, int)) or isinstance(value, float) and math.isfinite(value):
        return value
    return printable(value)[:300] if isinstance(value, str) else None
