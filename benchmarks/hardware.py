"""What figures were measured on: printed above every table, and under "machine" in every JSON."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

from vlf_edge.commands.bench import cpu_model


def describe(*packages: str) -> dict[str, Any]:
    """{"cpu", "os", "load_average": of the last minute, "versions": {"python", each installed package}}."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    load = round(os.getloadavg()[0], 2)
    return {"cpu": cpu_model(), "os": platform.platform(), "load_average": load, "versions": versions}


def header(machine: dict[str, Any]) -> str:
    """The same in two lines of text."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    busy = f"load average {machine['load_average']:.2f} before the start"
    return f"{machine['cpu']}; {machine['os']}; {busy}\n{versions}"
