"""The backends: the libraries that run stages. Another one is a file beside this one and a row here.

A backend of graphs runs a plan's portable ONNX, on the CPU: its engine is made of (onnx_bytes, *, precision, threads).
A backend of engines runs what it compiled for a GPU: selection.py opens those, and may have them built.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine import Engine


@dataclass(frozen=True)
class Backend:
    """One library. name: of the backend and of the module that is imported. runs: "engines" or "graphs".
    engine: the class in the file of that name here. install: the line that installs the library, "" if none is
    needed."""

    name: str
    runs: str
    engine: str
    install: str

    def open_graph(self, onnx_bytes: bytes, *, precision: str = "fp32", threads: int | None = None) -> Engine:
        """An engine for an ONNX graph. precision: of the plan it is from. threads: None leaves it to the library.
        Only backends of graphs have it. Raises BackendMissing, PlanMismatch."""
        kind = getattr(import_module(f".{self.name}", __package__), self.engine)
        return kind(onnx_bytes, precision=precision, threads=threads)


# In the order in which they are preferred.
_ROWS = (
    Backend(
        "tensorrt",
        "engines",
        "TensorRTEngine",
        "pip install 'vlf_edge[tensorrt]' (for a driver of CUDA 12: 'vlf_edge[tensorrt-cu12]'; on a Jetson: sudo apt "
        "install python3-libnvinfer, and a virtual environment made with --system-site-packages)",
    ),
    Backend(
        "tensorrt_rtx",
        "engines",
        "TensorRTEngine",
        "pip install 'vlf_edge[rtx]' (for a driver of CUDA 12: 'vlf_edge[rtx-cu12]')",
    ),
    Backend("openvino", "graphs", "OpenVINOEngine", "pip install 'vlf_edge[cpu]'"),
    Backend("onnxruntime", "graphs", "OnnxRuntimeEngine", "pip install 'vlf_edge[build]'"),
)
# For tests of everything around the engines; never chosen unasked.
FAKE = Backend("fake", "graphs", "FakeGraphEngine", "")

TABLE = {backend.name: backend for backend in (*_ROWS, FAKE)}
NAMES = tuple(backend.name for backend in _ROWS)
GPU_BACKENDS = tuple(backend.name for backend in _ROWS if backend.runs == "engines")
CPU_BACKENDS = tuple(backend.name for backend in _ROWS if backend.runs == "graphs")
