"""The ONNX graphs of a plan as files."""

from __future__ import annotations

from functools import partial

from ..plan import Plan
from .contract import README, about, readme, tensors
from .folder import Folder, safe_name

_KINDS = {
    "portable": "for CPUs and any ONNX tool",
    "typed": "for TensorRT: precision is in its types",
    "fp32": "as exported, before any quantisation",
}


def onnx_folder(plan: Plan, kind: str) -> Folder:
    """<stage>.onnx for each stage, vlf.json and README.txt.

    kind: "portable", "typed" or "fp32". Raises PlanMismatch if the plan lacks such a graph.
    """
    graphs = {f"{safe_name(stage)}.onnx": plan.manifest.graph(stage, kind) for stage in plan.manifest.stages}
    lines = [f"{name}: the {graph.stage} stage, {kind} graph ({_KINDS[kind]})" for name, graph in graphs.items()]
    return Folder(
        files={
            README: partial(readme, plan, kind, lines),
            **{name: partial(plan.graph, graph.stage, kind) for name, graph in graphs.items()},
        },
        about={
            **about(plan),
            "graphs": [
                {
                    "file": name,
                    "stage": graph.stage,
                    "kind": kind,
                    "inputs": tensors(graph.inputs),
                    "outputs": tensors(graph.outputs),
                }
                for name, graph in graphs.items()
            ],
        },
    )
