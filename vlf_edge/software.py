"""Which packages are installed, and in which versions."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata, util

from .errors import BackendMissing


def versions_of(*packages: str) -> dict[str, str]:
    """Package -> installed version; "unknown" without metadata, as for a system package on a Jetson."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def installed(package: str) -> bool:
    """Whether a package can be found, without importing it."""
    return util.find_spec(package) is not None


def require_packages(extra: str, what: str, packages: Iterable[str], instead: str = "") -> None:
    """Raises BackendMissing naming every one of ``packages`` that cannot be found, all at once.

    extra: of vlf_edge, which brings them. what: needs them, in words. instead: what else there is to do, in words.
    """
    missing = [package for package in packages if not installed(package)]
    if missing:
        raise BackendMissing(
            f"{what} needs {', '.join(missing)}, not installed here: pip install 'vlf_edge[{extra}]'"
            + (f"; {instead}" if instead else "")
        )
