"""How much energy the machine takes while a plan runs, from the meters it has: all of it, not ours alone.

Intel's and AMD's processors count it (RAPL), NVIDIA's cards too (NVML, which comes with the driver). A Jetson has INA
sensors that tell the power of the moment, which is summed up here.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_EVERY_S = 1.0
_RAPL = "class/powercap/intel-rapl:*"
_INA_HWMON = "bus/i2c/drivers/ina3221/*/hwmon/hwmon*"
_INA_IIO = "bus/i2c/drivers/ina3221x/*/iio:device*"
_INPUT_RAILS = ("VDD_IN", "POM_5V_IN")  # what the whole module takes: Orin and Xavier, Nano and TX


class EnergyMeter:
    """Joules since it was made, by what they are measured with.

    sys: where the system's files are. nvml: opens NVIDIA's library, or raises OSError. device: number of the GPU.
    clock: seconds. Meters that are not here or may not be read (RAPL often belongs to root) are left out.
    """

    def __init__(
        self,
        *,
        device: int = 0,
        sys: Path = Path("/sys"),
        nvml: Callable[[], Any] = lambda: ctypes.CDLL("libnvidia-ml.so.1"),
        clock: Callable[[], float] = time.monotonic,
    ):
        self._clock, self._lock = clock, threading.Lock()
        self._next_s = -float("inf")
        self._joules: dict[str, float] = {}
        self._meters = [_Rapl(zone) for zone in sorted(sys.glob(_RAPL)) if zone.name.count(":") == 1]
        self._meters += _ina_meters(sys, clock)
        self._meters += _nvml_meters(nvml, device)
        self.read()

    def read(self) -> dict[str, float]:
        """{"rapl" | "nvml" | "ina": joules}. The meters are asked once a second at most, so calls cost nothing; a call
        every few seconds is needed, since counters wrap and sensors know only the moment."""
        with self._lock:
            if self._clock() >= self._next_s:
                self._next_s = self._clock() + _EVERY_S
                for meter in self._meters:
                    try:
                        self._joules[meter.kind] = self._joules.get(meter.kind, 0.0) + meter.more_j()
                    except (OSError, ValueError):
                        continue
            return dict(self._joules)


class Usage:
    """What is taken from now on. device: number of the GPU.

    Meters are looked for when it is first read, by a thread that watches or asks: no decision waits for that.
    """

    def __init__(self, device: int = 0):
        self._device, self._cpu_from_s = device, time.process_time()
        self._meter: EnergyMeter | None = None
        self._lock = threading.Lock()

    def read(self) -> dict[str, float]:
        """Joules by meter."""
        with self._lock:
            if self._meter is None:
                self._meter = EnergyMeter(device=self._device)
        return self._meter.read()

    def figures(self, decisions: int) -> dict[str, Any]:
        """{"cpu_s", "joules": {meter: J}, "mj_per_decision": None without meters or decisions}."""
        joules = self.read()
        energy_mj = 1e3 * sum(joules.values())
        return {
            "cpu_s": round(time.process_time() - self._cpu_from_s, 3),
            "joules": {kind: round(value, 3) for kind, value in joules.items()},
            "mj_per_decision": round(energy_mj / decisions, 3) if joules and decisions else None,
        }


class _Rapl:
    """One processor package, whose counter of microjoules wraps."""

    kind = "rapl"

    def __init__(self, zone: Path):
        self._zone = zone
        self._last_uj: int | None = None

    def more_j(self) -> float:
        """Joules since the call before. Raises OSError where only root may read it."""
        now_uj = int((self._zone / "energy_uj").read_text())
        last_uj, self._last_uj = self._last_uj, now_uj
        if last_uj is None:
            return 0.0
        if now_uj < last_uj:
            now_uj += int((self._zone / "max_energy_range_uj").read_text())
        return (now_uj - last_uj) / 1e6


class _Ina:
    """The power input of a Jetson module. watts: reads it."""

    kind = "ina"

    def __init__(self, watts: Callable[[], float], clock: Callable[[], float]):
        self._watts, self._clock = watts, clock
        self._last: tuple[float, float] | None = None

    def more_j(self) -> float:
        """Joules since the call before: the mean of both powers, for the time between."""
        now_s, now_w = self._clock(), self._watts()
        (last_s, last_w), self._last = self._last or (now_s, now_w), (now_s, now_w)
        return (now_s - last_s) * (now_w + last_w) / 2


class _Nvml:
    """One GPU, which counts millijoules since its driver was loaded."""

    kind = "nvml"

    def __init__(self, library: Any, handle: ctypes.c_void_p):
        self._library, self._handle = library, handle
        self._last_mj: int | None = None

    def more_j(self) -> float:
        """Joules since the call before. Raises OSError for cards that do not count (before Volta)."""
        now = ctypes.c_ulonglong()
        code = self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(now))
        if code != 0:
            raise OSError(f"NVML answers {code}")
        last_mj, self._last_mj = self._last_mj, now.value
        return 0.0 if last_mj is None else (now.value - last_mj) / 1e3


def _ina_meters(sys: Path, clock: Callable[[], float]) -> list[_Ina]:
    found = []
    for label in sorted((*sys.glob(f"{_INA_HWMON}/in*_label"), *sys.glob(f"{_INA_IIO}/rail_name_*"))):
        try:
            if label.read_text().strip() not in _INPUT_RAILS:
                continue
        except OSError:
            continue
        if label.name.startswith("in"):
            number = label.name.removeprefix("in").removesuffix("_label")
            found.append(_Ina(_hwmon_watts(label.parent, number), clock))
        else:
            power = label.with_name(f"in_power{label.name.removeprefix('rail_name_')}_input")
            found.append(_Ina(lambda power=power: int(power.read_text()) / 1e3, clock))
    return found


def _hwmon_watts(folder: Path, number: str) -> Callable[[], float]:
    """From the millivolts and milliamperes of a rail."""
    millivolts, milliamperes = folder / f"in{number}_input", folder / f"curr{number}_input"
    return lambda: int(millivolts.read_text()) * int(milliamperes.read_text()) / 1e6


def _nvml_meters(nvml: Callable[[], Any], device: int) -> list[_Nvml]:
    try:
        library = nvml()
    except OSError:
        return []
    handle = ctypes.c_void_p()
    if library.nvmlInit_v2() != 0:
        return []
    if library.nvmlDeviceGetHandleByIndex_v2(device, ctypes.byref(handle)) != 0:
        return []
    return [_Nvml(library, handle)]
