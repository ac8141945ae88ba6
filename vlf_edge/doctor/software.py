"""Python and the packages that a plan runs on."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from .._version import __version__
from .finding import ABSENT, BAD, OK, WARN, Finding
from .machine import Machine

_OLDEST = (3, 10)
_WHEELS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_GSTREAMER_FIX = (
    "sudo apt install python3-opencv, pip uninstall opencv-python, and a virtual environment made with "
    "python3 -m venv --system-site-packages .venv"
)


def interpreter(machine: Machine) -> Iterator[Finding]:
    python = machine.python
    old = tuple(map(int, python.version.split(".")[:2])) < _OLDEST
    where = f"virtual environment {python.prefix}" if python.in_environment else f"in {python.prefix}"
    yield Finding(
        "Python",
        BAD if old else OK,
        f"{python.version}, {where}",
        "3.10 or later" if old else "",
        "sudo apt install python3.10 python3.10-venv" if old else "",
    )
    yield Finding("vlf_edge", OK, __version__)


def environment(machine: Machine) -> Iterator[Finding]:
    """Whether what apt installed is seen here, which matters where TensorRT comes with the system."""
    versions, python = machine.system_tensorrt, machine.python
    if not versions:
        return
    name, theirs = "system packages", f"the system's TensorRT is for Python {' and '.join(versions)}"
    make = f"python{versions[0]} -m venv --system-site-packages .venv"
    if machine.environment_hides_system:
        yield Finding(
            name,
            BAD if machine.is_jetson else WARN,
            f"{theirs}, and the virtual environment {python.prefix} hides it",
            "an environment that sees the system's packages",
            f"make it anew: {make}",
        )
    elif python.minor not in versions:
        fix = f"use it: {make}"
        yield Finding(name, WARN, f"{theirs}, this is Python {python.minor}", f"Python {versions[0]}", fix)
    else:
        yield Finding(name, OK, f"{theirs}, and is seen here")


def numpy_and_opencv(machine: Machine) -> Iterator[Finding]:
    numpy = machine.ask("numpy")
    if "error" in numpy:
        fix = "pip install --force-reinstall 'numpy<2'" if machine.is_jetson else "pip install --force-reinstall numpy"
        yield Finding("NumPy", BAD, numpy["error"], "1.23 or later", fix)
        return
    yield Finding("NumPy", OK, numpy["version"])
    opencv = machine.ask("opencv")
    if "error" in opencv:
        yield _broken_opencv(machine, opencv, numpy["version"])
        return
    yield Finding("OpenCV", OK, f"{opencv['version']}, {opencv['file']}")
    if not opencv["ffmpeg"]:
        fix = "pip install --force-reinstall opencv-python"
        yield Finding("FFmpeg", WARN, "not in this OpenCV", "in it, to read video files and RTSP", fix)
    else:
        yield Finding("FFmpeg", OK, "in this OpenCV")
    if opencv["gstreamer"]:
        yield Finding("GStreamer", OK, "in this OpenCV: csi:// and pipelines can be opened")
    else:
        mark, wanted = (WARN, "in it, for csi:// cameras") if machine.is_jetson else (ABSENT, "")
        yield Finding("GStreamer", mark, "not in this OpenCV: no csi:// and no pipelines", wanted, _GSTREAMER_FIX)


def _broken_opencv(machine: Machine, opencv: dict[str, str], numpy_version: str) -> Finding:
    if any(word in opencv["error"] for word in ("multiarray", "_ARRAY_API", "NumPy 1.x", "numpy.dtype size")):
        return Finding(
            "OpenCV",
            BAD,
            f"it was built for another NumPy than {numpy_version} ({opencv['error']})",
            "NumPy 1 for a system's OpenCV, and for JetPack's",
            "pip install 'numpy<2'" if numpy_version.startswith("2") else "pip install --upgrade opencv-python",
        )
    return Finding("OpenCV", BAD, opencv["error"], "4.6 or later", opencv["remedy"])


def opencv_wheels(machine: Machine) -> Iterator[Finding]:
    """Several wheels of OpenCV write into one folder: which of them is imported depends on the order of installing."""
    found = [name for name in _WHEELS if _version(name)]
    if len(found) > 1:
        fix = f"pip uninstall {' '.join(found)}, then pip install opencv-python"
        yield Finding("OpenCV wheels", WARN, " and ".join(found), "one of them", fix)


def pyav(machine: Machine) -> Iterator[Finding]:
    if not _version("av"):
        yield Finding("PyAV", ABSENT, "not installed", "", "pip install av")
        return
    answer = machine.ask("pyav")
    if "error" in answer:
        yield Finding("PyAV", BAD, answer["error"], "importable", "pip install --force-reinstall av")
    else:
        yield Finding("PyAV", OK, answer["version"])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
