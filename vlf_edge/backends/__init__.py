"""The libraries that run a stage. Each file here imports its own library, late; this one says which are installed."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from ..errors import BackendMissing, raise_interrupt
from ..telemetry import barred

_INSTALL = {
    "openvino": "pip install 'vlf_edge[cpu]'",
    "onnxruntime": "pip install 'vlf_edge[build]'",
    "tensorrt_rtx": "pip install 'vlf_edge[rtx]' (for a driver of CUDA 12: 'vlf_edge[rtx-cu12]')",
    "tensorrt": "pip install 'vlf_edge[tensorrt]' (for a driver of CUDA 12: 'vlf_edge[tensorrt-cu12]'; on a "
    "Jetson: sudo apt install python3-libnvinfer, and a virtual environment made with --system-site-packages)",
}


def installed(library: str) -> bool:
    """Whether a library can be found, without importing it."""
    return importlib.util.find_spec(library) is not None


def install_command(library: str) -> str:
    """The line that installs a library."""
    return _INSTALL[library]


def require(library: str) -> None:
    """Raises BackendMissing with the install line if a library is not installed."""
    if not installed(library):
        raise BackendMissing(f"{library} is not installed; install it with: {_INSTALL[library]}")


def load(library: str) -> ModuleType:
    """Imports a library. Raises BackendMissing with the install line if it is absent or broken."""
    require(library)
    try:
        with barred():
            return importlib.import_module(library)
    except (ImportError, OSError, RuntimeError) as error:
        raise_interrupt(error)
        raise BackendMissing(
            f"{library} is installed but cannot be imported ({error}); reinstall it with: {_INSTALL[library]}"
        ) from error
