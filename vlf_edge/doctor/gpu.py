"""The GPU, its driver, and the libraries that run or compile plans: those of the table of backends."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .. import backends
from ..backends.table import CPU_BACKENDS, GPU_BACKENDS, NAMES, TABLE
from .finding import ABSENT, BAD, OK, WARN, Finding
from .machine import Machine

_DRIVER_FIX = "install NVIDIA's driver: sudo ubuntu-drivers install, or see nvidia.com/drivers; then reboot"
_OLDEST_RTX, _NO_RTX = (7, 5), ("8.7", "9.0", "10.0", "11.0")


def has_nvidia_hardware(machine: Machine) -> bool:
    """By the PCI bus, whatever drivers there are."""
    for vendor in machine.find("/sys/bus/pci/devices/*/vendor"):
        kind = machine.read(vendor.replace("vendor", "class")) or ""
        if (machine.read(vendor) or "").strip() == "0x10de" and kind.startswith("0x03"):
            return True
    return machine.is_jetson


def driver(machine: Machine) -> Iterator[Finding]:
    """nvidia-smi, or what the kernel says; libcuda, which comes with the driver."""
    here = has_nvidia_hardware(machine)
    version = _driver_version(machine)
    if not version and not machine.is_jetson:
        if here:
            yield Finding("driver", BAD, "an NVIDIA GPU is on the bus, but no driver runs", "a driver", _DRIVER_FIX)
        else:
            yield Finding("driver", ABSENT, "no NVIDIA GPU and no driver here")
            return
    else:
        yield Finding("driver", OK, version or "part of JetPack")
    answer = machine.ask("driver")
    if "error" in answer:
        fix = "reinstall the driver; in a container start it with --gpus all, on a Jetson with --runtime nvidia"
        yield Finding("libcuda", BAD, answer["error"], "libcuda.so.1, which comes with the driver", fix)
    elif answer["init"]:
        fix = "see whether nvidia-smi shows the GPU; after an update of the driver, reboot"
        yield Finding("libcuda", BAD, f"CUDA does not start (error {answer['init']})", "a GPU that it finds", fix)
    else:
        yield Finding("libcuda", OK, f"for CUDA {answer['cuda']}")


def _driver_version(machine: Machine) -> str:
    """Version and GPUs."""
    listed = machine.run("nvidia-smi", "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader")
    if listed and re.match(r"\d+\.\d+", listed):
        rows = [[part.strip() for part in line.split(",")] for line in listed.strip().splitlines()]
        return f"{rows[0][0]}: " + ", ".join(f"{name} ({size})" for _, name, size in (row[:3] for row in rows))
    kernel = re.search(r"Kernel Module.*?\s(\d+\.\d+[\d.]*)", machine.read("/proc/driver/nvidia/version") or "")
    return f"{kernel[1]}, by the kernel; nvidia-smi says nothing" if kernel else ""


def cuda(machine: Machine) -> Iterator[Finding]:
    """The bindings, and the GPU as they see it."""
    needed = has_nvidia_hardware(machine)
    answer = machine.ask("bindings")
    if "error" in answer:
        if needed:
            yield Finding("cuda-bindings", BAD, answer["error"], "importable", answer["remedy"])
        else:
            yield Finding("cuda-bindings", ABSENT, answer["error"])
        return
    yield Finding("cuda-bindings", OK, answer["version"])
    gpu = machine.ask("gpu")
    if "error" in gpu:
        if has_nvidia_hardware(machine):
            yield Finding("GPU", BAD, gpu["error"], "one that CUDA finds", gpu["remedy"])
        else:
            yield Finding("GPU", ABSENT, gpu["error"])
        return
    memory_gb = gpu["memory_bytes"] / 2**30
    shared = ", shared with the CPU" if gpu["integrated"] else ""
    yield Finding("GPU", OK, f"{gpu['name']}, {gpu['multiprocessors']} multiprocessors, {memory_gb:.1f} GiB{shared}")
    yield _capability(gpu["compute_capability"])


def _capability(capability: str) -> Finding:
    number = tuple(map(int, capability.split(".")))
    if number < _OLDEST_RTX:
        return Finding("compute capability", BAD, capability, "7.5 or later", "another GPU, or --backend openvino")
    libraries = "tensorrt" if capability in _NO_RTX else "tensorrt or tensorrt_rtx"
    return Finding("compute capability", OK, f"{capability}: {libraries}")


def libraries(machine: Machine) -> Iterator[Finding]:
    """Every backend of the table, imported."""
    for name in (*GPU_BACKENDS, *CPU_BACKENDS):
        answer = machine.ask("library", name)
        if "error" not in answer:
            yield Finding(name, OK, f"{answer['version']}, {answer['file']}")
        else:
            yield _missing(machine, name, answer)
    if not any(map(backends.installed, NAMES)):
        fix = TABLE[CPU_BACKENDS[0]].install
        yield Finding("backends", BAD, "none is installed: nothing runs a plan here", "one at least", fix)


def _missing(machine: Machine, name: str, answer: dict[str, str]) -> Finding:
    """Not there and not needed, or there and broken: then the library's own words are shown."""
    if "is not installed" not in answer["error"]:
        fix = answer["remedy"] or f"reinstall it with: {backends.install_command(name)}"
        return Finding(name, BAD, answer["error"], "importable", fix)
    if name == "tensorrt" and machine.is_jetson:
        hidden = machine.system_tensorrt and machine.environment_hides_system
        make = f"python{machine.system_tensorrt[0]} -m venv --system-site-packages .venv" if hidden else ""
        fix = f"make the environment anew: {make}" if hidden else "sudo apt install python3-libnvinfer"
        found = "JetPack's is there, but hidden by the virtual environment" if hidden else "not installed"
        return Finding(name, BAD, found, "JetPack's", fix)
    if name in GPU_BACKENDS and not has_nvidia_hardware(machine):
        return Finding(name, ABSENT, "not installed; only for NVIDIA GPUs")
    return Finding(name, ABSENT, "not installed; one of several", "", answer["remedy"])


def targets(machine: Machine) -> Iterator[Finding]:
    """What ``vlf-edge build --target`` can make here."""
    answer = machine.ask("targets")
    if "error" in answer:
        yield Finding("targets", WARN, answer["error"], "a list of what can be built")
        return
    yield Finding("target cpu", OK, "every plan has it")
    for target, why in answer.items():  # the way to a library stands with the library
        yield Finding(f"target {target}", ABSENT if why else OK, why.partition("; ")[0] or "can be built here")
