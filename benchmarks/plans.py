"""Plans to measure: those named on the command line, or random-weight ones built for the occasion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlf_edge import Plan, build
from vlf_edge.compiler import Recipe
from vlf_edge.errors import VlfError
from vlf_edge.models import MODELS

VLF_SIZES = tuple(name for name in MODELS if name.startswith("vlf"))


def open_plans(paths: Sequence[str]) -> dict[str, Plan]:
    """{precision: plan}. Raises VlfError if two have the same precision or they are of different models."""
    plans = [Plan.open(path) for path in paths]
    by_precision = {plan.manifest.precision: plan for plan in plans}
    if len(by_precision) < len(plans) or any(p.manifest.model != plans[0].manifest.model for p in plans):
        raise VlfError(f"--plan takes plans of one model, each of another precision; got {', '.join(map(repr, plans))}")
    return by_precision


def build_plans(model: str, precisions: Sequence[str], folder: Path) -> dict[str, Plan]:
    """{precision: plan} of that model, for CPUs, in ``folder``: exported once, the others made from the fp32 plan."""
    recipe = Recipe(model=model, random_weights=True, precision="fp32", target="cpu")
    base = build(recipe, folder / f"{model}.fp32.plan")
    plans = {"fp32": base}
    for precision in set(precisions) - {"fp32"}:
        recipe = Recipe(precision=precision, calib_data=("test://motion?seconds=60",), target="cpu")
        output = folder / f"{model}.{precision}.plan"
        plans[precision] = build(recipe, output, base=base.path, cache_dir=folder / "ranges")
    return {precision: plans[precision] for precision in precisions}
