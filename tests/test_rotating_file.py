"""Files of lines: what is in them after rotations, kills, full disks and other people's hands."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlf_edge import CsvEventsSink, Event, JsonLinesFileSink, Prediction, ThreadedSink, VlfError
from vlf_edge.backoff import Backoff
from vlf_edge.cli import main
from vlf_edge.runtime.sinks.rotating_file import RotatingFile

BEGUN = Event("door", 'a "wave",\n=1+1', 12.5, None, 0.75, 7)
ENDED = replace(BEGUN, t_end_s=14.25)


def lines_of(folder: Path, name: str) -> list[bytes]:
    """All lines that are left, the oldest first."""
    files = sorted(folder.glob(f"{name}.*"), key=lambda p: -int(p.suffix[1:])) + [folder / name]
    return [line for path in files if path.exists() for line in path.read_bytes().splitlines(keepends=True)]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=60),
    max_bytes=st.integers(1, 120),
    keep=st.integers(0, 4),
    header=st.sampled_from([b"", b"names"]),
    reopen=st.sets(st.integers(0, 59)),
)
def test_the_newest_lines_are_there_in_order_and_within_bounds(lengths, max_bytes, keep, header, reopen):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.jsonl"
        file = RotatingFile(path, max_bytes=max_bytes, keep=keep, header=header)
        written = []
        for number, length in enumerate(lengths):
            if number in reopen:
                file.close()
                file = RotatingFile(path, max_bytes=max_bytes, keep=keep, header=header)
            written.append(b"%d " % number + b"x" * length)
            file.write_line(written[-1])
        file.close()
        files = list(Path(name).iterdir())
        assert len(files) <= keep + 1
        for one in files:
            kept = one.read_bytes().splitlines()
            assert not header or kept.pop(0) == header
            assert one.stat().st_size <= max_bytes or len(kept) == 1, "one line alone may be longer"
        left = [line for line in lines_of(Path(name), "x.jsonl") if line != header + b"\n"]
        assert left == [line + b"\n" for line in written[len(written) - len(left) :]] and left
        if sum(len(line) + 1 for line in written) + len(header) + 1 <= max_bytes:
            assert len(left) == len(written)


def test_half_a_line_is_cut_off(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": ')
    with JsonLinesFileSink(path) as sink:
        sink.write_event(BEGUN)
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {"a": 1} and second["event"]["id"] == 7


def test_what_others_move_away_is_made_anew(tmp_path):
    path = tmp_path / "x.jsonl"
    with JsonLinesFileSink(path) as sink:
        sink.write_event(BEGUN)
        path.rename(tmp_path / "moved")
        sink.write_event(ENDED)
        path.unlink()
        sink.write_event(ENDED)
    assert len((tmp_path / "moved").read_bytes().splitlines()) == len(path.read_bytes().splitlines()) == 1


def test_a_full_disk_costs_no_half_line_and_what_waits_is_written_later(tmp_path, monkeypatch):
    path, write, full = tmp_path / "x.jsonl", os.write, [3]

    def write_to_full_disk(handle, data):
        if data.startswith(b"{") and full[0]:
            full[0] -= 1
            write(handle, data[:10])
            if full[0] % 2:
                return 10  # as the system says it at first
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data)

    monkeypatch.setattr(os, "write", write_to_full_disk)
    with ThreadedSink(JsonLinesFileSink(path), pause=lambda s: False, backoff=Backoff()) as sink:
        for number in range(5):
            sink.write_event(replace(BEGUN, id=number))
    assert [json.loads(line)["event"]["id"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
    stats = sink.stats()
    assert (stats["written"], stats["failed"], stats["errors"]) == (4, 1, 3) and "No space" in stats["last_error"]


def test_rows_of_events(tmp_path):
    path = tmp_path / "x.csv"
    for _ in range(2):
        with CsvEventsSink(path) as sink:
            sink.write(None, Prediction("no_signal", 0, 0, -1, 0.0))
            sink.write_event(BEGUN)
            sink.write_event(ENDED)
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == 2 and len(path.read_text().splitlines()) == 3
    assert list(rows[0]) == ["at", "stream", "label", "t_start_s", "t_end_s", "duration_s", "peak_score", "id"]
    assert [rows[1][name] for name in ("label", "duration_s", "id")] == ['a "wave",\\n=1+1', "1.75", "7"]


def test_refusals(tmp_path):
    (tmp_path / "link").symlink_to("x")
    with JsonLinesFileSink(tmp_path / "mine"):
        for name, why in (
            ("none/x", "No such file"),
            (".", "directory"),
            ("link", "symbolic link"),
            ("mine", "another p"),
        ):
            with pytest.raises(VlfError, match=f"cannot write .*{why}"):
                JsonLinesFileSink(tmp_path / name)
    with pytest.raises(VlfError, match="max_bytes is 0"):
        JsonLinesFileSink(tmp_path / "x", max_bytes=0)


def test_the_command_line_writes_them(toy_plan, tmp_path, capsys):
    path, words = tmp_path / "all.jsonl", ["run", str(toy_plan.path), "test://motion?seconds=4", "--backend", "fake"]
    assert main([*words, "--json", "--save-jsonl", str(path), "--rotate-mb", "0.001", "--rotate-keep", "1000"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kept = [json.loads(line) for line in lines_of(tmp_path, "all.jsonl")]
    assert [line["seq"] for line in kept] == [line["seq"] for line in printed] and (tmp_path / "all.jsonl.1").exists()
    for wrong, message in (
        (
            ["--save-events", str(tmp_path / "e.csv")],
            "--save-events is for events, and none are asked for; add --events",
        ),
        (["--rotate-mb", "0"], "--rotate-mb is 0.0; expected above 0"),
        (["--save-jsonl", str(tmp_path / "none" / "x")], "cannot write"),
    ):
        assert main([*words, *wrong]) == 1
        assert message in capsys.readouterr().err


WRITER = """
import sys
from vlf_edge import JsonLinesFileSink, Event
sink = JsonLinesFileSink(sys.argv[1], max_bytes=20_000, keep=10_000)
for number in range(10**9):
    sink.write_event(Event("main", "x" * (number % 50), 0.0, None, 0.5, number))
    if number % 20 == 0:
        print(number, flush=True)
        input()
"""


def test_a_kill_loses_at_most_the_last_line(tmp_path):
    words = [sys.executable, "-c", WRITER, str(tmp_path / "x.jsonl")]
    writer = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for _ in range(40):
        told = int(writer.stdout.readline())
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    writer.send_signal(signal.SIGKILL)
    told = max([told, *map(int, writer.communicate()[0].splitlines())])
    JsonLinesFileSink(tmp_path / "x.jsonl").close()
    numbers = [json.loads(line)["event"]["id"] for line in lines_of(tmp_path, "x.jsonl")]
    assert numbers == list(range(len(numbers))) and len(numbers) > told
