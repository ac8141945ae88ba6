"""What the libraries that run on the CPU have in common: threads of their own, and errors of their own kinds."""

from __future__ import annotations

import ctypes
import os
import platform
from abc import abstractmethod
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from weakref import WeakSet

import numpy as np

from ..errors import BackendMissing, VlfError
from ..printable import printable
from ..types import TensorSpec
from .engine import Engine

_SAID_CHARACTERS = 400
_live: WeakSet[CpuEngine] = WeakSet()
_opened_in: dict[str, int] = {}  # library: the process that opened its first engine


class CpuEngine(Engine):
    """An engine whose library has threads. Those do not live on in a forked child, only the locks they held: there,
    the engine refuses to run, instead of waiting for ever for threads that are not there.

    noise: how lines of the library's messages begin that say nothing to a user.
    """

    noise: tuple[str, ...] = ()

    def __init__(self, backend: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]):
        super().__init__(backend, inputs, outputs)
        self._inherited = False
        _live.add(self)

    def _infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._inherited:
            raise VlfError(
                f"this {self.backend} engine was opened before the process was forked and cannot run in the child; "
                'open the plan in the child, or start it with multiprocessing\'s method "spawn"'
            )
        try:
            return self._run(inputs)
        except Exception as error:  # neither library has a base class for its own
            raise VlfError(f"{self.backend} failed while it ran {self!r}: {said(error, self.noise)}") from error

    def _close(self) -> None:
        if not self._inherited:
            self._release()

    @abstractmethod
    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As ``infer``; whatever it raises becomes a VlfError."""

    @abstractmethod
    def _release(self) -> None:
        """Frees what the library holds."""


def refuse_after_fork(library: str) -> None:
    """For a library that, once it has run in a process, can no longer open anything in a child forked from it.

    Raises BackendMissing in such a child.
    """
    if _opened_in.setdefault(library, os.getpid()) != os.getpid():
        raise BackendMissing(
            f"{library} was used before this process was forked and would hang here",
            remedy='open plans in the child alone, start it with multiprocessing\'s method "spawn", or take the '
            "backend onnxruntime",
        )


def said(error: BaseException, noise: tuple[str, ...] = ()) -> str:
    """A library's message in one printable line, without the lines that begin with ``noise``. Where it holds bytes of
    a graph that are no text, Python raises about those instead; they are shown escaped."""
    if isinstance(error, UnicodeDecodeError):
        text = error.object.decode("utf-8", "backslashreplace")
    else:
        text = str(error) or type(error).__name__
    line = " ".join(" ".join(line for line in text.splitlines() if not line.startswith(noise)).split())
    shown = printable(line)
    return shown if len(shown) <= _SAID_CHARACTERS else f"{shown[:_SAID_CHARACTERS]}.."


def _keep_for_ever() -> None:
    """In a forked child: to free an inherited engine is to wait for its threads, so nothing ever does."""
    for engine in _live:
        engine._inherited = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))


os.register_at_fork(after_in_child=_keep_for_ever)


@cache
def cpu_features(cpuinfo: str | os.PathLike[str] = "/proc/cpuinfo") -> str:
    """The processor's name and instructions, by which the libraries choose what they compute with."""
    return " ".join([platform.machine(), *_cpu_facts(cpuinfo, "model name", "CPU part", "flags", "Features")])


def cpu_name(cpuinfo: str | os.PathLike[str] = "/proc/cpuinfo") -> str:
    """What the processor calls itself, else its kind."""
    return next(iter(_cpu_facts(cpuinfo, "model name")), platform.machine())


def _cpu_facts(cpuinfo: str | os.PathLike[str], *names: str) -> list[str]:
    """What the first processor says of these, where it does."""
    try:
        lines = Path(cpuinfo).read_text().splitlines()
    except OSError:
        lines = []
    known = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in reversed(lines)}
    return [known[name] for name in names if name in known]


def is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


@cache
def int8_saturates(cpuinfo: str | os.PathLike[str] = "/proc/cpuinfo") -> bool:
    """Whether this CPU cannot multiply int8 exactly: x86 without VNNI or AMX.

    The instruction that such CPUs have adds two products of uint8 and int8 in 16 bits, which is too few: large sums are
    cut off. OpenVINO and ONNX Runtime use it all the same (measured on AVX2 with vlf-tiny: tokens off by 4.0 and 1.0 %
    of what the graph says, as much again as INT8 itself costs). Both can be told to compute a quantised graph in float,
    which gives what it says, to 0.1 %, and is no faster than fp32.
    """
    if not is_x86():
        return False
    try:
        lines = Path(cpuinfo).read_text().splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), None)
    return flags is not None and not {"avx512_vnni", "avx_vnni", "amx_int8"} & {*flags}
