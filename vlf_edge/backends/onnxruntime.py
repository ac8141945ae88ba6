"""A stage on the CPU with ONNX Runtime: the fallback where OpenVINO is not installed, and its referee in tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import PlanError, PlanMismatch
from ..onnx_graph import read_graph
from ..types import TensorSpec
from . import load
from .cpu import CpuEngine, int8_saturates, is_x86, said

# Each session has threads of its own, which after a run go on spinning: on the cores that the other stage needs now.
# Stopping them made a vlf decision 1.6 times faster on two cores.
SETTINGS = {"session.force_spinning_stop": "1"}
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class OnnxRuntimeEngine(CpuEngine):
    """Runs a portable ONNX graph on the CPU, in the types of the graph.

    precision: of the plan; "int8" graphs may be computed in float. threads: None leaves their number to ONNX Runtime
    (all physical cores).
    """

    def __init__(self, onnx_bytes: bytes, *, precision: str = "fp32", threads: int | None = None):
        onnxruntime = load("onnxruntime")
        onnxruntime.disable_telemetry_events()  # which a program that imported it before vlf_edge still has on
        options = onnxruntime.SessionOptions()
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4  # what goes wrong is in the exception; on stderr it would be said twice
        for name, value in SETTINGS.items():
            options.add_session_config_entry(name, value)
        if precision == "int8" and _better_in_float(onnx_bytes):
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            # Without its fallback: that prints to stdout and tries the same provider again.
            self._session = onnxruntime.InferenceSession(
                onnx_bytes, options, providers=["CPUExecutionProvider"], enable_fallback=False
            )
        except Exception as error:  # its exceptions have no base class of their own
            cause = said(error)
            raise PlanMismatch(f"ONNX Runtime {onnxruntime.__version__} cannot run this graph: {cause}") from error
        super().__init__("onnxruntime", _specs(self._session.get_inputs()), _specs(self._session.get_outputs()))

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._session.run(names, dict(inputs))))

    def _release(self) -> None:
        self._session = None


def _better_in_float(int8_graph: bytes) -> bool:
    """Whether to round as the graph says, and to multiply in float.

    Measured on x86 with VNNI, one thread: int8 convolutions take 1.2 to 2.1 times as long as those in float (frame
    stages of vlf-lite, vlf-tiny and vlf-mobile), int8 matrix products 0.4 to 0.8 times (their clip stages).
    """
    if int8_saturates():
        return True
    try:
        return is_x86() and read_graph(int8_graph, "the graph").operators["Conv"] > 0
    except PlanError:  # it is of no plan: let ONNX Runtime have its way
        return False


def _specs(arguments: list[Any]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(a.name, _DTYPES.get(a.type, a.type), _shape(a.shape)) for a in arguments)


def _shape(sizes: list[int | str | None]) -> tuple[int | str, ...]:
    return tuple(f"axis{axis}" if size is None else size for axis, size in enumerate(sizes))
