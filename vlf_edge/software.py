"""Versions of the libraries that made something, for its record."""

from __future__ import annotations

from importlib import metadata


def versions_of(*packages: str) -> dict[str, str]:
    """Package -> installed version; "unknown" without metadata, as for a system package on a Jetson."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found
