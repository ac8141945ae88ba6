"""The golden windows of a new plan: some of the windows that it was calibrated on, and what fp32 answers to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...golden_windows import GoldenWindows, choose
from ..calibration.windows import Clips
from ..fp32_model import Fp32Model
from .fidelity import Reference
from .runners import AS_WRITTEN, open_stages


def make_golden(
    fp32: Fp32Model, clips: Clips | None, scene: Clips | None, rows: Sequence[Mapping[str, Any]], precision: str
) -> GoldenWindows | None:
    """clips: the user's, whose calibration windows are taken. Without them those of the plan that the build began with
    are kept; where it has none, ``scene`` serves. rows: what was measured of this plan (``candidate.measure``)."""
    if clips is None and fp32.golden is not None:
        frames, windows = fp32.golden.frames, fp32.golden.windows
    elif clips is not None or scene is not None:
        given = clips or scene
        chosen = choose(given.windows, len(fp32.labels), given.frames[0].nbytes)
        if not len(chosen):
            return None
        frames, windows = given.only(chosen)
    else:
        return None
    with open_stages(AS_WRITTEN, fp32.graphs) as stages:
        logits = Reference.of(stages, frames, windows).logits
    errors = [row["end_to_end"] for row in rows if row.get("end_to_end", {}).get("relative") is not None]
    worst = {name: max((error[name] for error in errors), default=0.0) for name in ("relative", "max_abs")}
    return GoldenWindows(frames, windows, logits, precision=precision, **worst)
