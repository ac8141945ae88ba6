"""vlf-edge run on several sources, and sources and sinks of ones own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess

import pytest
from patient import VLF_EDGE

from vlf_edge import Runtime, Sink, Source, SourceError, open_source
from vlf_edge.cli import main
from vlf_edge.commands.cameras import name_sources
from vlf_edge.runtime.sinks.video import video_of


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
        assert [line["state"] for line in found] == ["warming"] * 3 + ["ok"] * 5 + ["ended"]
        assert [line["label"] for line in found] == [line["label"] for line in by_stream["b.avi"]], "the same clip"
    for name in by_stream:
        assert len(list(open_source(video_of(str(out), name)))) == 40
    assert not out.exists() and "15 decisions" in said.err


def test_a_video_that_cannot_be_finished_costs_no_decision_and_is_told_by_the_exit_code(
    toy_plan, clips, tmp_path, capsys, monkeypatch
):
    def full(self):
        raise SourceError("cannot write out.avi: is the disk full?")

    monkeypatch.setattr("vlf_edge.runtime.sinks.video.VideoWriter.close", full)
    words = ["run", str(toy_plan.path), clips[2], "--backend", "fake", "--json", "--save", str(tmp_path / "out.avi")]
    assert main(words) == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 8 and "5 decisions" in said.err
    assert said.err.splitlines()[-1] == "vlf-edge: cannot write out.avi: is the disk full?"


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


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_camera_that_is_not_there_is_waited_for_and_a_signal_ends_that(toy_plan, number, code):
    command = [*VLF_EDGE, "run", str(toy_plan.path), "97", "--backend", "fake", "--json"]
    waiting = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    told = json.loads(waiting.stdout.readline())
    assert told["state"] == "no_signal" and told["label"] is None and told["seq"] == -1
    waiting.send_signal(number)
    out, err = waiting.communicate(timeout=240)
    assert waiting.returncode == code
    lines = err.splitlines()
    assert lines[0].startswith("main: no camera at /dev/video97; ") and "(--max-retries 0 ends instead)" in lines[0]
    assert sum("no camera at" in line and "last error" not in line for line in lines) == 1, "not for every try"
    assert any(line.startswith("0 decisions") for line in lines) and lines[-1] == "vlf-edge: interrupted"


def test_a_camera_that_hangs_while_it_is_opened_costs_no_summary(toy_plan):
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections, and says nothing
        source = f"rtsp://viewer:s3cret@127.0.0.1:{mute.getsockname()[1]}/live"
        command = [*VLF_EDGE, "run", str(toy_plan.path), source, "--backend", "fake"]
        waiting = subprocess.Popen(
            [*command, "--stall-timeout", "0.2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert "no_signal" in waiting.stdout.readline()
        waiting.send_signal(signal.SIGTERM)
        out, err = waiting.communicate(timeout=240)
    lines = err.splitlines()
    assert waiting.returncode == 143 and lines[-1] == "vlf-edge: interrupted" and "s3cret" not in out + err
    assert any("hangs in a read or an opening" in line for line in lines)
    assert any(line.startswith("0 decisions") for line in lines), err
