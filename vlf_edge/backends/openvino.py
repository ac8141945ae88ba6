"""A stage on the CPU with OpenVINO: the default where there is no NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from ..errors import PlanMismatch
from ..types import TensorSpec
from . import load
from .engine import Engine


class OpenVINOEngine(Engine):
    """Runs a portable ONNX graph on the CPU.

    precision: of the plan. "fp16" lets OpenVINO compute in the CPU's own 16-bit type (bfloat16 where it has
    instructions for it, else float32); "fp32" and "int8" compute all that is not quantised in float32.
    threads: None leaves their number to OpenVINO (all physical cores).
    """

    def __init__(self, onnx_bytes: bytes, *, precision: str = "fp32", threads: int | None = None):
        openvino = load("openvino")
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        # Measured with AMX and AVX512-FP16, ms for EfficientNet-B0 and ResNet-18 at 224 px: float32 6.8 and 13,
        # bfloat16 5.1 and 3.3 (error 1.2 and 0.4 %), float16 8.2 and 19: slower than float32, so it is never asked
        # for. In quantised graphs a float32 rest is as fast as a bfloat16 one and nearer to the original.
        if precision != "fp16":
            config["INFERENCE_PRECISION_HINT"] = "f32"
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            self._model = shared_core().compile_model(shared_core().read_model(onnx_bytes), "CPU", config)
        except RuntimeError as error:
            raise PlanMismatch(f"OpenVINO {openvino.__version__} cannot run this graph: {_last_line(error)}") from error
        self._request = self._model.create_infer_request()
        super().__init__("openvino", _specs(self._model.inputs), _specs(self._model.outputs))

    @property
    def precision_hint(self) -> str:
        """The type in which OpenVINO computes what is not quantised: "f32", "bf16" or "f16"."""
        return self._model.get_property("INFERENCE_PRECISION_HINT").to_string()

    def _infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # Inputs are read in place; outputs are copied, because the request's own memory is used again.
        results = self._request.infer(dict(inputs), share_inputs=True, share_outputs=False)
        return {spec.name: results[spec.name] for spec in self.outputs}

    def _close(self) -> None:
        self._request = self._model = None


@cache
def shared_core() -> Any:
    """One for the whole process, for ever: every OpenVINO core gives its thread a stack for signal handlers and takes
    it back when it is destroyed. With several, destroyed in another order than last come, first gone, the process is
    left with a stack that is no more, and the next Ctrl-C or end of a child process crashes it."""
    return load("openvino").Core()


def _specs(ports: list[Any]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(port.any_name, port.element_type.to_dtype().name, _shape(port.partial_shape)) for port in ports
    )


def _shape(partial_shape: Any) -> tuple[int | str, ...]:
    # OpenVINO does not keep the names of dynamic axes; the first is always the batch.
    return tuple(
        d.get_length() if d.is_static else ("N" if axis == 0 else f"axis{axis}") for axis, d in enumerate(partial_shape)
    )


def _last_line(error: RuntimeError) -> str:
    """OpenVINO's messages begin with its source lines and end with the cause."""
    return str(error).strip().splitlines()[-1]
