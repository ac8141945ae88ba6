"""What figures were measured on: printed above every table, and under "machine" in every JSON."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any


def describe(*packages: str) -> dict[str, Any]:
    """{"cpu", "os", "load_average": of the last minute, "versions": {"python", each installed package}}."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    load = round(os.getloadavg()[0], 2)
    return {"cpu": cpu(), "os": platform.platform(), "load_average": load, "versions": versions}


def header(machine: dict[str, Any]) -> str:
    """The same in two lines of text."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    busy = f"load average {machine['load_average']:.2f} before the start"
    return f"{machine['cpu']}; {machine['os']}; {busy}\n{versions}"


def cpu() -> str:
    """ "<model>, N cores", N being those this process may use."""
    try:
        name = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        name = None
    return f"{name[1] if name else platform.machine()}, {len(os.sched_getaffinity(0))} cores"
