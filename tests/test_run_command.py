"""vlf-edge run on several sources, and sinks on threads of their own."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from vlf_edge import Frame, Prediction, Runtime, Sink, Source, ThreadedSink, open_source
from vlf_edge.cli import main
from vlf_edge.commands.run import video_of
from vlf_edge.runtime.runtime import name_sources

WAIT_S = 10


@pytest.fixture
def clips(tmp_path, images):
    from vlf_edge import VideoWriter

    for name in ("one/a.avi", "two/a.avi", "b.avi"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with VideoWriter(path, 20.0) as video:
            for image in images:
                video.write(image)
    return [str(tmp_path / name) for name in ("one/a.avi", "two/a.avi", "b.avi")]


def test_streams_are_called_as_their_sources_are():
    named = name_sources(["a/x.mp4", "b/x.mp4", "/dev/video0", "0", "folder/", "test://motion?seed=2"])
    assert list(named) == ["x.mp4", "x.mp4#2", "video0", "0", "folder", "motion?seed=2"]
    assert list(named.values())[4:] == ["folder/", "test://motion?seed=2"]


def test_several_sources_run_together(toy_plan, clips, tmp_path, capsys):
    out = tmp_path / "out.avi"
    words = ["run", str(toy_plan.path), *clips, "--backend", "fake", "--json", "--save", str(out)]
    assert main([*words, "--max-batch-delay-ms", "5"]) == 0
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    by_stream = {name: [line for line in lines if line["stream"] == name] for name in ("a.avi", "a.avi#2", "b.avi")}
    assert sum(map(len, by_stream.values())) == len(lines)
    for found in by_stream.values():
        assert [line["state"] for line in found] == ["warming"] * 3 + ["ok"] * 5
        assert [line["label"] for line in found] == [line["label"] for line in by_stream["b.avi"]], "the same clip"
    for name in by_stream:
        assert len(list(open_source(video_of(str(out), name)))) == 40
    assert not out.exists() and "15 decisions" in said.err


@pytest.mark.parametrize(
    "words, message",
    [
        (["none.mp4", "test://motion"], "no file, folder or camera at none.mp4"),
        (["test://motion", "--max-batch-delay-ms", "-1"], "max_batch_delay_ms is -1.0; expected milliseconds"),
    ],
)
def test_what_cannot_run_is_one_sentence(toy_plan, capsys, words, message):
    assert main(["run", str(toy_plan.path), *words, "--backend", "fake"]) == 1
    assert message in capsys.readouterr().err


def step(number: int) -> tuple[Frame, Prediction]:
    return Frame(np.zeros((2, 2, 3), np.uint8), float(number), number, 0.0), Prediction("ok", 0, number, number, 0.0)


class Gate(Sink):
    """Takes steps only while it is open."""

    def __init__(self, fail_at: int | None = None):
        self.entered, self.open = threading.Event(), threading.Event()
        self.seen: list[int] = []
        self.closed, self._fail_at = False, fail_at

    def write(self, frame, prediction):
        self.entered.set()
        assert self.open.wait(WAIT_S)
        if frame.seq == self._fail_at:
            raise OSError("no space left")
        self.seen.append(frame.seq)

    def close(self):
        self.closed = True


def test_a_slow_sink_costs_its_own_steps_only():
    gate = Gate()
    sink = ThreadedSink(gate, capacity=3)
    sink.write(*step(0))
    assert gate.entered.wait(WAIT_S)
    for number in range(1, 10):
        sink.write(*step(number))  # none of these waits
    assert sink.dropped == 6
    gate.open.set()
    sink.close()
    sink.close()
    assert gate.seen == [0, 7, 8, 9] and gate.closed


def test_of_a_file_no_step_is_lost():
    gate = Gate()
    gate.open.set()
    with ThreadedSink(gate, capacity=2, drop_oldest=False) as sink:
        for number in range(50):
            sink.write(*step(number))
    assert gate.seen == list(range(50)) and sink.dropped == 0


def test_what_fails_in_a_sink_is_raised_by_the_next_write_or_by_close():
    for number_of_writes in (1, 50):
        gate = Gate(fail_at=0)
        sink = ThreadedSink(gate, capacity=2, drop_oldest=False)
        with pytest.raises(OSError, match="no space left"):
            for number in range(number_of_writes):
                sink.write(*step(number))
                gate.open.set()
            sink.close()
        assert gate.closed


def test_a_sink_that_hangs_is_left_alone(monkeypatch, caplog):
    monkeypatch.setattr("vlf_edge.runtime.sinks.threaded._CLOSE_S", 0.05)
    gate = Gate()
    sink = ThreadedSink(gate)
    sink.write(*step(0))
    sink.close()
    assert "Gate still hangs" in caplog.text
    gate.open.set()


class Numbers(Source):
    """A source of a user's own."""

    def __init__(self, images):
        super().__init__("numbers")
        self._images, self.closed = images, False

    def read(self):
        return self._frame(self._images[self._seq % 40], self._seq * 0.25) if not self.closed else None

    def close(self):
        self.closed = True


class Three(Sink):
    """Wants three decisions."""

    def __init__(self):
        self.found, self.closed = [], False

    def write(self, frame, prediction):
        assert frame.stream == prediction.stream
        self.found += [prediction] if prediction.state == "ok" else []

    @property
    def wants_more(self):
        return len(self.found) < 3

    def close(self):
        self.closed = True


def test_sources_and_sinks_of_ones_own(toy_plan, images):
    source, sink = Numbers(images), Three()
    with Runtime(toy_plan, backend="fake") as runtime:
        runtime.run(source, [sink])
    assert len(sink.found) == 3 and sink.closed and source.closed


def test_a_run_ends_when_its_time_is_up(toy_plan, images):
    source, sink = Numbers(images), Three()
    sink.write = lambda frame, prediction: None
    with Runtime(toy_plan, backend="fake") as runtime:
        runtime.run(source, [sink], duration_s=0.05)
    assert sink.closed and source.closed
