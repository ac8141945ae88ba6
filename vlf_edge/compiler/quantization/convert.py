"""fp32 graphs -> the graphs of a precision: FP16 types, or INT8 with any choice of nodes left in float."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...software import versions_of
from ..fp32_model import Fp32Model
from .float16 import to_float16
from .quantize import Quantized, quantize
from .ranges import Ranges

Node = tuple[str, str]  # (stage, name of a node of its graph)
RESTORED = "restored by the accuracy gate"


@dataclass(frozen=True)
class Graphs:
    """The graphs of a precision, by stage. quantization: for the manifest; calibration: for the report."""

    precision: str
    portable: Mapping[str, bytes]
    typed: Mapping[str, bytes]
    quantization: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def in_float(fp32: Fp32Model, precision: str) -> Graphs:
    """fp32: the graphs as they are. fp16: the same for CPUs, float16 types for GPUs."""
    if precision == "fp32":
        return Graphs("fp32", fp32.graphs, fp32.graphs)
    typed = {stage: to_float16(graph) for stage, graph in fp32.graphs.items()}
    return Graphs("fp16", fp32.graphs, typed, versions=versions_of("onnx"))


@dataclass(frozen=True)
class Int8:
    """fp32 graphs and the ranges of their activations: everything that int8 graphs are made of.

    ranges: by stage. about: how they were found, for the manifest. hygiene: what was seen, for the report.
    """

    fp32: Fp32Model
    ranges: Mapping[str, Ranges]
    about: Mapping[str, Any]
    hygiene: Mapping[str, Any]

    def stage(self, stage: str, keep_float: Collection[str] = ()) -> Quantized:
        """The portable graph of one stage, with the nodes ``keep_float`` left as they are."""
        return quantize(self.fp32.graphs[stage], self.ranges[stage], keep_float=keep_float)

    def nodes(self) -> list[Node]:
        """Every node that is int8 unless kept in float, stage after stage in graph order."""
        return [(stage, node) for stage in self.ranges for node in self.stage(stage).quantized]

    def graphs(self, restored: Collection[Node] = ()) -> Graphs:
        """All graphs, with the ``restored`` nodes in float."""
        names = {stage: {node for of, node in restored if of == stage} for stage in self.ranges}
        made = {stage: self.stage(stage, names[stage]) for stage in self.ranges}
        reasons = {
            stage: {node: RESTORED if node in names[stage] else why for node, why in one.kept_float.items()}
            for stage, one in made.items()
        }
        return Graphs(
            "int8",
            portable={stage: one.onnx for stage, one in made.items()},
            typed={stage: to_float16(one.onnx) for stage, one in made.items()},
            quantization={
                **self.about,
                "int8_nodes": {stage: len(one.quantized) for stage, one in made.items()},
                "kept_float": reasons,
            },
            calibration=dict(self.hygiene),
            versions=versions_of("onnx", "onnxruntime"),
        )
