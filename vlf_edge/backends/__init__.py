"""The libraries that run a stage. Each file here imports its own library, late; this one says which are installed."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from ..errors import BackendMissing, raise_interrupt
from ..telemetry import barred
from .table import TABLE


def installed(library: str) -> bool:
    """Whether a library can be found, without importing it."""
    return importlib.util.find_spec(library) is not None


def install_command(library: str) -> str:
    """The line that installs a library."""
    return TABLE[library].install


def require(library: str) -> None:
    """Raises BackendMissing with the install line if a library is not installed."""
    if not installed(library):
        raise BackendMissing(f"{library} is not installed", remedy=f"install it with: {TABLE[library].install}")


def load(library: str) -> ModuleType:
    """Imports a library. Raises BackendMissing with the install line if it is absent or broken."""
    require(library)
    try:
        with barred():
            return importlib.import_module(library)
    except (ImportError, OSError, RuntimeError) as error:
        raise_interrupt(error)
        raise BackendMissing(
            f"{library} is installed but cannot be imported ({error})",
            remedy=f"reinstall it with: {TABLE[library].install}",
        ) from error
