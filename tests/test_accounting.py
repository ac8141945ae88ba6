"""Every frame is accounted for, of every stream and at every instant; energy and time are counted from what is here."""

from __future__ import annotations

import ctypes
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from clocks import SetClock
from conftest import toy_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recognizer import fake_engines

from vlf_edge import Frame, Runtime, Sampling, VlfError
from vlf_edge.runtime.energy import EnergyMeter
from vlf_edge.runtime.outbox import Outbox, Step
from vlf_edge.runtime.pipeline import Pipeline
from vlf_edge.runtime.recognizer import Recognizer
from vlf_edge.runtime.scheduler import Backlog, Waiting
from vlf_edge.runtime.stats import CAUSES, COUNTS, Stats
from vlf_edge.video.sources import IterableSource

IMAGE = np.zeros((32, 32, 3), np.uint8)


def adds_up(counts: dict) -> bool:
    parts = ("encoded", "off_grid", "dropped", "failed", "waiting")
    return (
        counts["captured"] == sum(counts[name] for name in parts)
        and counts["dropped"] == sum(counts[f"dropped_{cause}"] for cause in CAUSES)
        and all(counts[name] >= 0 for name in COUNTS)
    )


class Fragile:
    """An executor's step that fails when it is told to."""

    def __init__(self, recognizer: Recognizer):
        self.fails, self._step = False, recognizer.executor.step
        recognizer.executor.step = self

    def __call__(self, due):
        if self.fails:
            raise VlfError("told to")
        return self._step(due)


@settings(max_examples=150, deadline=None)
@given(
    cameras=st.integers(0, 3),
    files=st.integers(0, 2),
    happenings=st.lists(
        st.tuples(
            st.sampled_from(["frame"] * 6 + ["run"] * 3 + ["hold", "failing run", "broken frame", "lost", "discard"]),
            st.integers(0, 4),
            st.floats(0.001, 0.7),
        ),
        max_size=150,
    ),
)
def test_counts_add_up_after_every_step(cameras, files, happenings):
    """hold: a batch is with the engine while other things happen."""
    manifest = toy_manifest()
    recognizer = Recognizer(manifest, fake_engines(manifest, max_batch=3))
    fragile, backlog, outbox = Fragile(recognizer), Backlog(3), Outbox(every_frame=False)
    streams = [recognizer.stream(f"{n}") for n in range(cameras + files)]
    for number, stream in enumerate(streams):
        backlog.open(stream, live=number < cameras)
    clock_s, held = dict.fromkeys(streams, 0.0), []

    def run(batch):
        due = [waiting.due for waiting in batch]
        for waiting, prediction in zip(batch, recognizer.decide(due) if due else ()):
            frame = Frame(IMAGE, 0.0, 0, 0.0, stream=waiting.stream.name)
            outbox.put(Step(frame, prediction), waiting.stream, live=waiting.stream in streams[:cameras])

    for what, which, later_s in happenings:
        stream = streams[which % len(streams)] if streams else None
        if what in ("frame", "broken frame") and stream is not None and not backlog.must_wait(stream):
            clock_s[stream] += later_s
            with_fault = what == "broken frame"
            image = np.zeros((0, 32, 3), np.uint8) if with_fault else IMAGE
            try:
                due = recognizer.accept(stream, image, clock_s[stream])
            except VlfError:
                due = None
            if due is not None:
                backlog.offer(Waiting(stream, SimpleNamespace(), due))
        elif what == "run":
            run(held or backlog.take())
            held = []
        elif what == "hold":
            held = held or backlog.take()
        elif what == "failing run" and (held or backlog.ready_in_s(1e9) is not None):
            fragile.fails = True
            with pytest.raises(VlfError, match="told to"):
                run(held or backlog.take())
            held, fragile.fails = [], False
        elif what == "lost" and stream is not None:
            stream.stats.drop("late", waiting=False)
        elif what == "discard":
            backlog.discard()
        for one in streams:
            assert adds_up(one.stats.summary()["counts"]), what
        assert adds_up(recognizer.total().counts)
    run(held)
    backlog.discard()
    assert recognizer.total().counts["waiting"] == 0


def test_counts_add_up_at_every_instant_that_another_thread_sees(images):
    manifest = toy_manifest()
    recognizer = Recognizer(manifest, fake_engines(manifest, delay_s=0.001), sampling=Sampling(4, 0.04))
    cameras = {f"{n}": IterableSource([images[i % 40] for i in range(300)], 500) for n in range(3)}
    for camera in cameras.values():
        camera.live = True
    seen = []
    with Pipeline(recognizer, cameras) as steps:
        reader = threading.Thread(target=lambda: list(steps))
        reader.start()
        while reader.is_alive():
            seen.append(recognizer.total().counts)
            seen += [stream.stats.summary()["counts"] for stream in recognizer.streams.values()]
        reader.join()
    assert all(adds_up(counts) for counts in seen)
    total = recognizer.total().counts
    assert total["captured"] == 900 and total["dropped_overload"] > 0 and total["waiting"] == 0


def test_durations_have_their_longest_for_ever():
    stats = Stats(kept=4)
    for duration_ms in (900.0, 1.0, 2.0, 3.0, 4.0):
        stats.add_ms("age", duration_ms)
    assert stats.summary()["ms"]["age"] == {"n": 4, "mean": 2.5, "p50": 2.5, "p95": 3.85, "p99": 3.97, "max": 900.0}
    assert "ms from capture to decision: p50 2.5, p95 3.9, p99 4.0, max 900.0" in stats.describe()


def test_the_summary_names_what_is_not_only_overload():
    stats = Stats()
    stats.add(captured=3, waiting=3)
    stats.drop("overload")
    assert "1 dropped; " in stats.describe()
    stats.drop("at_end")
    assert "2 dropped (1 overload, 1 at end); " in stats.describe()


# Energy: trees of files as the kernel makes them, and NVIDIA's library, both strict.


def no_nvml():
    raise OSError("libnvidia-ml.so.1: cannot open shared object file")


def write(path, text) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


@pytest.fixture
def clock() -> SetClock:
    return SetClock(0.0)


def rapl(tmp_path, zone: str, name: str, microjoules: int):
    folder = tmp_path / "class/powercap" / zone
    write(folder / "name", name)
    write(folder / "energy_uj", microjoules)
    write(folder / "max_energy_range_uj", 262_143_328_850)
    return folder / "energy_uj"


def test_rapl_counts_packages_once_and_wraps(tmp_path, clock):
    first = rapl(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    second = rapl(tmp_path, "intel-rapl:1", "package-1", 262_143_000_000)
    rapl(tmp_path, "intel-rapl:0:0", "core", 1_000_000)  # a part of package-0
    meter = EnergyMeter(sys=tmp_path, nvml=no_nvml, clock=clock)
    assert meter.read() == {"rapl": 0.0}
    clock.now_s = 2.0
    first.write_text("7500000\n")
    second.write_text("671150\n")
    assert meter.read() == {"rapl": pytest.approx(2.5 + 1.0)}
    first.write_text("9500000\n")
    assert meter.read() == {"rapl": pytest.approx(3.5)}, "asked again within the second: no file is read"


def test_meters_that_only_root_may_read_are_left_out(tmp_path, clock):
    rapl(tmp_path, "intel-rapl:0", "package-0", 5_000_000).unlink()
    assert EnergyMeter(sys=tmp_path, nvml=no_nvml, clock=clock).read() == {}


@pytest.mark.parametrize("driver", ["hwmon", "iio"])
def test_a_jetsons_power_is_summed_up(tmp_path, clock, driver):
    if driver == "hwmon":  # Orin: JetPack 5 and later
        folder = tmp_path / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
        rails = {1: ("VDD_IN", 5000, 1600), 2: ("VDD_CPU_GPU_CV", 5000, 700), 3: ("VDD_SOC", 5000, 300)}
        for number, (label, millivolts, milliamperes) in rails.items():
            write(folder / f"in{number}_label", label)
            write(folder / f"in{number}_input", millivolts)
            write(folder / f"curr{number}_input", milliamperes)
        more, power = folder / "curr1_input", 3200
    else:  # Nano: JetPack 4
        folder = tmp_path / "bus/i2c/drivers/ina3221x/6-0040/iio:device0"
        write(folder / "rail_name_0", "POM_5V_IN")
        write(folder / "in_power0_input", 8000)
        write(folder / "rail_name_1", "POM_5V_GPU")
        write(folder / "in_power1_input", 2000)
        more, power = folder / "in_power0_input", 16000
    meter = EnergyMeter(sys=tmp_path, nvml=no_nvml, clock=clock)
    assert meter.read() == {"ina": 0.0}
    clock.now_s = 1.0
    assert meter.read() == {"ina": pytest.approx(8.0)}
    clock.now_s = 3.0
    more.write_text(f"{power}\n")
    assert meter.read() == {"ina": pytest.approx(8.0 + 2 * 12.0)}


class FakeNvml:
    """As libnvidia-ml: calls before nvmlInit_v2 and handles that it did not give are errors."""

    def __init__(self, *, cards: int = 1, counts: bool = True):
        self._cards, self._counts, self._begun, self.millijoules = cards, counts, False, 10_000

    def nvmlInit_v2(self) -> int:  # noqa: N802
        self._begun = True
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle) -> int:  # noqa: N802
        assert self._begun
        if index >= self._cards:
            return 2
        ctypes.cast(handle, ctypes.POINTER(ctypes.c_void_p))[0] = 0xBEE0 + index
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, millijoules) -> int:  # noqa: N802
        assert handle.value == 0xBEE0
        if not self._counts:
            return 3
        ctypes.cast(millijoules, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.millijoules
        return 0


def test_a_gpu_counts_millijoules(tmp_path, clock):
    card = FakeNvml()
    meter = EnergyMeter(sys=tmp_path, nvml=lambda: card, clock=clock)
    clock.now_s, card.millijoules = 1.0, 13_500
    assert meter.read() == {"nvml": pytest.approx(3.5)}


@pytest.mark.parametrize("card, device", [(FakeNvml(counts=False), 0), (FakeNvml(cards=1), 1)])
def test_gpus_that_do_not_count_are_left_out(tmp_path, clock, card, device):
    assert EnergyMeter(sys=tmp_path, nvml=lambda: card, clock=clock, device=device).read() == {}


def test_a_runtime_tells_cpu_time_energy_and_its_streams(toy_plan, images, tmp_path, monkeypatch, clock):
    counter = rapl(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = EnergyMeter(sys=tmp_path, nvml=no_nvml, clock=clock)
    monkeypatch.setattr("vlf_edge.runtime.energy.EnergyMeter", lambda device: meter)
    with Runtime(toy_plan, backend="fake") as runtime:
        assert len(list(runtime.stream({"door": [(image, i / 4) for i, image in enumerate(images[:8])]}))) == 8
        runtime.push(images[0], 0.0, stream="robot")
        counter.write_text("4000000\n")
        clock.now_s = 2.0
        stats = runtime.stats()
        assert stats["process"]["joules"] == {"rapl": 4.0} and stats["process"]["mj_per_decision"] == 4000 / 5
        assert stats["process"]["cpu_s"] > 0
        door, robot = stats["streams"]["door"], stats["streams"]["robot"]
        assert (door["state"], door["live"], door["source"], door["reconnects"]) == ("ended", False, "list", 0)
        assert door["last_error"] is None and door["state_for_s"] >= 0 and robot["state"] == "pushed"
        assert stats["ms"]["age"]["n"] == stats["streams"]["door"]["ms"]["age"]["n"] == 5
        assert " s of CPU time, 800.0 mJ a decision" in runtime.summary()
