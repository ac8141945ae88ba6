"""Processor, memory and cameras."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from ..backends.cpu import cpu_name, int8_saturates
from .finding import ABSENT, BAD, OK, WARN, Finding
from .machine import Machine

_LEAST_FREE_MB, _LEAST_FOR_BUILDS_MB = 500, 6000
_SHOWN = 4


def processor(machine: Machine) -> Iterator[Finding]:
    cpuinfo = machine.path("/proc/cpuinfo")
    yield Finding("CPU", OK, f"{cpu_name(cpuinfo)}, {len(os.sched_getaffinity(0))} cores for this process")
    if int8_saturates(cpuinfo):
        yield Finding(
            "int8 on the CPU",
            WARN,
            "no VNNI and no AMX: int8 plans are computed in float, exactly but no faster than fp32",
            "a CPU with avx_vnni, avx512_vnni or amx_int8, or a GPU",
            "none is needed; an fp32 plan is as fast here: vlf-edge build PLAN --precision fp32 -o fp32.plan",
        )
    else:
        yield Finding("int8 on the CPU", OK, "exact")


def memory(machine: Machine) -> Iterator[Finding]:
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", machine.read("/proc/meminfo") or "", re.M))
    total, free, swap = (int(sizes.get(name, 0)) // 1024 for name in ("MemTotal", "MemAvailable", "SwapTotal"))
    if not total:
        yield Finding("memory", WARN, "/proc/meminfo cannot be read", "its size")
        return
    little = free < _LEAST_FREE_MB
    yield Finding(
        "memory",
        WARN if little else OK,
        f"{total} MiB, {free} MiB of them available",
        f"{_LEAST_FREE_MB} MiB available" if little else "",
        "end other programs; on a Jetson: sudo systemctl set-default multi-user.target" if little else "",
    )
    if swap or total > _LEAST_FOR_BUILDS_MB:
        yield Finding("swap", OK, f"{swap} MiB")
    else:
        fix = "sudo fallocate -l 8G /swap && sudo chmod 600 /swap && sudo mkswap /swap && sudo swapon /swap"
        yield Finding("swap", WARN, "none", "8 GiB, for builds of engines on a machine of so little memory", fix)


def cameras(machine: Machine) -> Iterator[Finding]:
    paths = sorted(machine.find("/dev/video*"), key=lambda path: (len(path), path))
    cameras = 0
    for path in paths:
        found = _camera(machine, path)
        cameras += found is not None
        if found is not None:
            yield found
    if not cameras:
        said = "none that gives images" if paths else "no /dev/video*"
        fix = "plug one in; in a container: --device /dev/video0. Files, RTSP and test://motion need none"
        yield Finding("cameras", ABSENT, said, "", fix)


def _camera(machine: Machine, path: str) -> Finding | None:
    """None for the nodes beside a camera that give no images."""
    place = machine.path(path)
    if not os.access(place, os.R_OK | os.W_OK):
        inside = " (log out and in again: the group is new)" if "video" in machine.groups else ""
        fix = f"sudo usermod -aG video $USER, then log in again{inside}"
        return Finding(path, BAD, "you may not open it", "a member of the group video", fix)
    answer = machine.ask("camera", str(place), limit_s=10.0)
    if "error" in answer:
        fix = "end what uses it: fuser -v " + path
        return Finding(path, WARN, answer["error"], "a camera that can be asked", fix)
    if not answer["captures"]:
        return None
    formats = "; ".join(map(_format, answer["formats"])) or "it names no formats"
    return Finding(path, OK, f"{answer['card']}: {formats}")


def _format(known: dict[str, Any]) -> str:
    sizes = sorted(known["sizes"], key=lambda size: -size[0] * size[1])
    shown = ", ".join(f"{w}x{h}" + (f" at {fps:g} fps" if fps else "") for w, h, fps in sizes[:_SHOWN])
    more = f" and {len(sizes) - _SHOWN} more" if len(sizes) > _SHOWN else ""
    return f"{known['fourcc'].strip()} {shown}{more}".strip()
