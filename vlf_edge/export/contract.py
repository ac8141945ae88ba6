"""What another program must know to feed a plan's stages rightly: vlf.json for machines, README.txt for people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from .._version import __version__
from ..golden_windows import read_golden
from ..manifest import Manifest
from ..plan import Plan
from ..types import TensorSpec

README = "README.txt"
_RESIZE = (
    "with s = the image's short side / {short_side_px}: cut round({height_px} s) x round({width_px} s) px (height x "
    "width) from the centre; while that is at least twice as large as wanted, halve it by averaging 2x2 pixels; then "
    "resize it bilinearly to {height_px}x{width_px}"
)
_HEAD = (
    "The plan itself decides between other labels ({}), by a head over the {} that these graphs give: that is in "
    "vlf_edge alone, and in no file here."
)


def about(plan: Plan) -> dict[str, Any]:
    """What every vlf.json says: plain JSON values."""
    manifest, golden = plan.manifest, read_golden(plan)
    sampling = manifest.sampling
    return {
        "made_by": f"vlf-edge {__version__}",
        "plan": {"file": plan.path.name, "sha256": plan.digest},
        "model": manifest.model,
        "precision": manifest.precision,
        "random_weights": manifest.random_weights,
        "labels": list(manifest.classes),
        "golden_windows": len(golden) if golden else 0,  # in the plan; none of them is exported
        "preprocess": {
            **asdict(manifest.preprocess),
            "layout": "HWC",
            "colour": "BGR",
            "dtype": "uint8",
            "method": _RESIZE.format(**asdict(manifest.preprocess)),
            "mean_and_std": "inside the graph",
        },
        "sampling": {**asdict(sampling), "step_s": sampling.step_s, "grid_s": sampling.grid_s, "order": "oldest first"},
    }


def tensors(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    """Specs as plain JSON values; a size that is a string is free."""
    return [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in specs]


def readme(plan: Plan, kind: str, files: Iterable[str], *notes: str) -> bytes:
    """The contract in a page of text.

    kind: of the graphs that the files are or were built from: their tensors are listed. files: lines that say what
    lies here. notes: paragraphs at the end.
    """
    manifest = plan.manifest
    lines = [
        f"{manifest.model.get('name', '?')}, {manifest.precision}, {len(manifest.classes)} classes, "
        f"from {plan.path.name} (sha256 {plan.digest[:16]}), written by vlf-edge {__version__}",
        "",
        *files,
        "",
        *_steps(manifest, kind),
        "",
        "vlf.json has the labels, all sizes, and the hashes of these files.",
    ]
    if manifest.random_weights:
        lines += ["", "RANDOM WEIGHTS, never trained: labels mean nothing."]
    if manifest.head is not None:
        lines += ["", _HEAD.format(", ".join(manifest.labels), " and ".join(manifest.head.reads))]
    for note in notes:
        lines += ["", note]
    return ("\n".join(lines) + "\n").encode()


def _steps(manifest: Manifest, kind: str) -> list[str]:
    size, sampling = manifest.preprocess, manifest.sampling
    steps = [
        f"Take an image every {sampling.step_s:.6g} s, by its time stamp and never by counting frames. "
        f"K = {sampling.frames} of them, oldest first, are one window of {sampling.span_s:g} s. "
        "One that comes more than half a step late begins a new window.",
        f"From its centre cut {size.width_px}x{size.height_px} px, after resizing its short side to "
        f"{size.short_side_px} px (vlf.json says how exactly): uint8, height x width x BGR. "
        "Mean and standard deviation are inside the graph.",
    ]
    for stage in manifest.stages:
        graph = manifest.graph(stage, kind)
        steps.append(f"Stage {stage}: {_listed(graph.inputs)} -> {_listed(graph.outputs)}.")
    if manifest.stages == ("frame", "clip"):
        steps.append("A live stream runs stage frame once for each image, and keeps the tokens of the last K.")
    steps.append("Softmax over the logits gives the probabilities, in the order of the labels.")
    return [f"{number}. {step}" for number, step in enumerate(steps, 1)]


def _listed(specs: Iterable[TensorSpec]) -> str:
    return ", ".join(map(str, specs))
