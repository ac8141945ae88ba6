"""A stage on the CPU with OpenVINO: the default where there is no NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from ..errors import PlanMismatch
from ..types import TensorSpec
from . import load
from .cpu import CpuEngine, int8_saturates, refuse_after_fork, said

# One request at a time, as soon as can be; and threads that the system may move. Pinned to a core, as this hint has it
# otherwise, a thread waits for whatever else runs on that core. Measured with benchmarks/threads.py and vlf-tiny on two
# cores that others used too: a pinned decision took 3.7 times as long beside one more busy process, and 5.6 times
# beside three. One thread took 0.43 and 0.25 of the time there, but 2.9 ms instead of 1.9 on quiet cores (one run).
SETTINGS: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}


class OpenVINOEngine(CpuEngine):
    """Runs a portable ONNX graph on the CPU.

    precision: of the plan. "fp16" lets OpenVINO compute in the CPU's own 16-bit type (bfloat16 where it has
    instructions for it, else float32); "fp32" and "int8" compute all that is not quantised in float32.
    threads: None leaves their number to OpenVINO (all physical cores).
    """

    noise = ("Exception from ", "Check '", "FrontEnd API failed", "Summary:", "To facilitate the conversion")

    def __init__(self, onnx_bytes: bytes, *, precision: str = "fp32", threads: int | None = None):
        openvino = load("openvino")
        refuse_after_fork("openvino")
        config = dict(SETTINGS)
        # Measured with AMX and AVX512-FP16, ms for EfficientNet-B0 and ResNet-18 at 224 px: float32 6.8 and 13,
        # bfloat16 5.1 and 3.3 (error 1.2 and 0.4 %), float16 8.2 and 19: slower than float32, so it is never asked
        # for. In quantised graphs a float32 rest is as fast as a bfloat16 one and nearer to the original.
        if precision != "fp16":
            config["INFERENCE_PRECISION_HINT"] = "f32"
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        if int8_saturates():
            config["LP_TRANSFORMS_MODE"] = False
        try:
            self._model = shared_core().compile_model(shared_core().read_model(onnx_bytes), "CPU", config)
            self._request = self._model.create_infer_request()
            inputs, outputs = _specs(self._model.inputs), _specs(self._model.outputs)
        except Exception as error:
            cause = said(error, self.noise)
            raise PlanMismatch(f"OpenVINO {openvino.__version__} cannot run this graph: {cause}") from error
        super().__init__("openvino", inputs, outputs)

    @property
    def precision_hint(self) -> str:
        """The type in which OpenVINO computes what is not quantised: "f32", "bf16" or "f16"."""
        return self._model.get_property("INFERENCE_PRECISION_HINT").to_string()

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # Inputs are read in place; outputs are copied, because the request's own memory is used again.
        results = self._request.infer(dict(inputs), share_inputs=True, share_outputs=False)
        return {spec.name: results[spec.name] for spec in self.outputs}

    def _release(self) -> None:
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
