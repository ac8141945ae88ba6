"""What is told of a Jetson: its release, and how fast it is allowed to run."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .finding import ABSENT, BAD, OK, WARN, Finding
from .machine import Machine

_RELEASES = {"35": "5", "36": "6", "38": "7"}  # of L4T and of JetPack
_OLDEST = (36, 4)  # L4T of JetPack 6.1, the first with TensorRT 10.3


def board(machine: Machine) -> Iterator[Finding]:
    if machine.model:
        yield Finding("board", OK, machine.model)
    if not machine.is_jetson:
        return
    release = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", machine.read("/etc/nv_tegra_release") or "")
    if release is None:
        fix = "start the container with --runtime nvidia, or mount /etc/nv_tegra_release into it"
        yield Finding("L4T", WARN, "/etc/nv_tegra_release says nothing", "the release of Jetson Linux", fix)
        return
    version = f"{release[1]}.{release[2]}"
    old = tuple(map(int, version.split(".")[:2])) < _OLDEST
    installed = (machine.run("dpkg-query", "-W", "-f=${Version}", "nvidia-jetpack") or "").strip()
    known = installed if re.match(r"\d", installed) else f"{_RELEASES.get(release[1], '?')}, by its L4T"
    yield Finding(
        "JetPack",
        BAD if old else OK,
        f"{known}; L4T {version}",
        "6.1 or later, which has TensorRT 10.3" if old else "",
        "flash JetPack 6.1 or later: docs/jetson.md" if old else "",
    )
    if not re.match(r"\d", installed):
        fix = "sudo apt install nvidia-jetpack"
        yield Finding("nvidia-jetpack", WARN, "the package is not installed", "CUDA and TensorRT of JetPack", fix)


def power(machine: Machine) -> Iterator[Finding]:
    if not machine.is_jetson:
        return
    said = machine.run("nvpmodel", "-q")
    mode = re.search(r"NV Power Mode:\s*(\S+)\s+(\d+)", said or "")
    if mode is None:
        found = "there is no nvpmodel here" if said is None else f"nvpmodel -q said: {' '.join(said.split())[:200]}"
        yield Finding("power mode", WARN, found, "the mode without limits", "run it on the Jetson itself, as root")
    elif mode[1].startswith("MAXN"):
        yield Finding("power mode", OK, f"{mode[1]} (number {mode[2]})")
    else:
        modes = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", machine.read("/etc/nvpmodel.conf") or "")
        best = [(number, name) for number, name in modes if name.startswith("MAXN")] or [("0", "MAXN")]
        number, name = max(best, key=lambda one: len(one[1]))  # MAXN_SUPER before MAXN
        fix = f"sudo nvpmodel -m {number}, if power and cooling allow it"
        yield Finding("power mode", WARN, f"{mode[1]} (number {mode[2]})", f"{name} for full speed", fix)
    yield _clocks(machine)


def _clocks(machine: Machine) -> Finding:
    fix = "sudo jetson_clocks, after each start of the machine"
    if not machine.is_root:
        found = "only root can see them: sudo jetson_clocks --show"
        return Finding("clocks", ABSENT, found, "at their highest, for steady times", fix)
    said = machine.run("jetson_clocks", "--show")
    gpu = re.search(r"GPU MinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)", said or "")
    if gpu is None:
        return Finding("clocks", WARN, "jetson_clocks --show says nothing of the GPU", "at their highest", fix)
    least, most, now = (int(hz) // 1_000_000 for hz in gpu.groups())
    if least == most:
        return Finding("clocks", OK, f"GPU fixed at {now} MHz")
    return Finding("clocks", WARN, f"GPU at {now} of {most} MHz, by demand", "at their highest, for steady times", fix)
