"""vlf-edge run --config: what the command line and the file say together, and cameras that are read anew."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from vlf_edge import EventSettings, Limits, VlfError, cli
from vlf_edge.commands.cameras import Reload, find_cameras

TWO = '[cameras.door]\nsource = 0\nflip = "rotate180"\n[cameras.yard]\nsource = "rtsp://me:s3cret@here/a"\n'


class FakeRuntime:
    """Notes what is to change, or refuses it."""

    def __init__(self):
        self.changes, self.error, self.given = [], None, {}

    def change_sources(self, gone, new):
        if self.error is not None:
            raise self.error
        self.changes.append((list(gone), {name: camera.source.name for name, camera in new.items()}))
        self.given = new


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cameras.toml"


@pytest.fixture
def begun(path, caplog):
    """Begins a run of a configuration; returns what reads it anew after it was written, and gives the log's line."""
    caplog.set_level(logging.INFO)

    def begin(text, *words):
        path.write_text(text)
        reload = Reload(cli._configured("run", str(path), ["run", "--config", str(path), *words]))
        reload.runtime = runtime = FakeRuntime()

        def again(text):
            path.write_text(text)
            caplog.clear()
            reload()
            assert len(caplog.records) == 1, "one sentence"
            assert "s3cret" not in caplog.text
            return caplog.records[0].getMessage()

        return again, runtime

    return begin


def run_cli(*words) -> int:
    try:
        return cli.main(["run", *map(str, words)])
    except SystemExit as exit:
        return exit.code


def test_the_command_line_wins_over_the_file(path):
    path.write_text(f"threads = 2\ntopk = 3\njson = true\nrealtime = true\nserve = '8000'\n{TWO}")
    words = ["run", "a.plan", "--config", str(path), "--topk", "4", "--flip", "vertical"]
    args = cli._configured("run", str(path), words)
    assert (args.plan, args.threads, args.topk, args.json, args.serve) == ("a.plan", 2, 4, True, "8000")
    assert set(find_cameras(args)) == {"door", "yard"}
    sources = cli._configured("run", str(path), [*words[:2], "7", "8", *words[2:]])
    assert list(find_cameras(sources)) == ["7", "8"], "cameras of the file are for runs without sources"


@pytest.mark.parametrize("text", ["", "plan = 'x.plan'", "[cameras.a]\nsource = 0"])
def test_without_a_plan_or_a_source_the_usage_is_shown_and_names_the_file(path, capsys, text):
    path.write_text(text)
    assert run_cli("--config", path) == 2
    assert "--config FILE with a plan and cameras" in capsys.readouterr().err


def test_what_is_wrong_with_the_file_is_one_line(path, capsys):
    path.write_text("plan = 'x.plan'\n[cameras.a]\nsource = 0\nflop = 1\n")
    assert run_cli("--config", path) == 1
    assert f"{path}, line 4: unknown entry 'flop'; known here: " in capsys.readouterr().err
    assert run_cli("--config", path.parent / "none.toml") == 1
    assert "cannot read the configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "flip = 'rtsp://me:s3cret@here/a'",
        "rebuild = 'http://here/?token=s3cret'",
        "mqtt = ['mqtt://me:s3cret@here']",
        "threads = 'rtsp://me:s3cret@here'",
        "threads = {a = 's3cret'}",
        "'rtsp://me:s3cret@here/a' = 3",
        "[cameras.a]\nsource = ['rtsp://me:s3cret@here/a']",
        "[cameras.a]\nsource = 'rtsp://me:s3cret@:99999/a'",
        "[cameras.a]\nsource = 'ftp://me:s3cret@here/a'",
        "[cameras]\na = 'rtsp://me:s3cret@here/a'",
        "mqtt = 'mqtt://me:s3cret@here\nthreads = 1",
    ],
)
def test_no_message_about_the_file_shows_a_password(path, text):
    path.write_text(text)
    with pytest.raises(VlfError) as error:
        find_cameras(cli._configured("run", str(path), ["run", "--config", str(path)]))
    assert "s3cret" not in str(error.value)


def test_files_are_named_beside_the_configuration(path, tmp_path):
    path.write_text(
        "plan = 'a.plan'\nsave-jsonl = '/abs/x.jsonl'\nserve-token-file = 'token'\nmqtt = '@secret'\n"
        "[cameras.a]\nsource = 'clip.mp4'\n[cameras.b]\nsource = 'gst:videotestsrc'\n"
    )
    args = cli._configured("run", str(path), ["run", "--config", str(path)])
    assert args.plan == str(tmp_path / "a.plan") and args.save_jsonl == "/abs/x.jsonl"
    assert args.serve_token_file == str(tmp_path / "token") and args.mqtt == f"@{tmp_path}/secret"
    assert args.cameras["a"].source == str(tmp_path / "clip.mp4") and args.cameras["b"].source == "gst:videotestsrc"


def test_only_what_has_changed_is_changed(begun, path):
    again, runtime = begun(TWO)
    assert again(TWO) == f"{path} read anew: the cameras are as they were" and not runtime.changes
    said = again(TWO.replace("rotate180", "vertical") + "[cameras.new]\nsource = 3\n")
    assert said.endswith("read anew: added new; changed door")
    said = again(TWO.replace("rotate180", "vertical"))
    assert said.endswith("removed new")
    assert runtime.changes == [
        (["door"], {"door": "/dev/video0", "new": "/dev/video3"}),
        (["new"], {}),
    ]


def test_an_option_for_all_cameras_changes_those_that_say_nothing_else(begun):
    again, runtime = begun("realtime = true\n" + TWO)
    assert again("realtime = true\nflip = 'vertical'\n" + TWO).endswith("changed yard")
    assert again("flip = 'vertical'\n" + TWO).endswith("changed door, yard")
    assert [list(new) for _, new in runtime.changes] == [["yard"], ["door", "yard"]]


def test_what_takes_a_restart_is_named(begun):
    again, runtime = begun("threads = 1\nserve = '8000'\njson = true\n" + TWO, "--topk", "3")
    text = "threads = 2\ntopk = 9\nserve = '9000'\nmqtt = 'mqtt://me:s3cret@here'\nengine-timeout = 9\n" + TWO
    said = again(text)
    assert said.endswith("as they were; this takes a restart: engine-timeout, json, mqtt, serve, threads")
    assert not runtime.changes


OWN = """
events = true
event-threshold = 0.8
stall-timeout = 3
[cameras.door]
source = 0
[cameras.yard]
source = 1
stall-timeout = 9
max-retries = 4
max-staleness = 0.5
budget-ms = 200
event-threshold = 0.9
event-thresholds = ["left=0.95"]
event-ignore = []
event-min = 2
"""


def test_a_camera_has_limits_and_event_settings_of_its_own(path):
    path.write_text(OWN)
    found = find_cameras(cli._configured("run", str(path), ["run", "--config", str(path), "--event-cooldown", "7"]))
    assert found["door"].limits == Limits(stall_timeout_s=3)
    assert found["yard"].limits == Limits(stall_timeout_s=9, max_retries=4, max_staleness_s=0.5, budget_ms=200)
    assert found["door"].events == EventSettings(threshold=0.8, cooldown_s=7)
    assert found["yard"].events == EventSettings(
        threshold=0.9, thresholds=("left=0.95",), ignore=(), min_s=2, cooldown_s=7
    )


@pytest.mark.parametrize(
    "entry, why",
    [
        ("event-leave = 0.95", "line 7: camera 'yard': --event-leave is 0.95; expected at most --event-threshold, 0.9"),
        ("event-thresholds = ['left']", "line 7: camera 'yard': --event-thresholds is left; expected LABEL=P"),
        ("stall-timeout = 0", "line 10: stall-timeout is 0; expected above 0"),
        ("engine-timeout = 5", "line 10: engine-timeout is for the whole run: it stands above the tables of the cam"),
        ("events = true", "line 10: events is for the whole run: it stands above the tables of the cameras"),
    ],
)
def test_what_a_camera_cannot_have_is_refused_with_its_line(path, entry, why):
    path.write_text(
        "plan = 'x.plan'\nevents = true\nevent-threshold = 0.9\n[cameras.door]\nsource = 0\n\n"
        f"[cameras.yard]\nsource = 1\n\n{entry}\n"
    )
    with pytest.raises(VlfError, match=re.escape(f"{path}, {why}")):
        find_cameras(cli._configured("run", str(path), ["run", "--config", str(path)]))


def test_event_settings_of_a_camera_without_events_are_a_mistake(path):
    path.write_text("[cameras.door]\nsource = 0\nevent-min = 2\n")
    with pytest.raises(VlfError, match="line 1: camera 'door': options say how events are made, but none are asked"):
        find_cameras(cli._configured("run", str(path), ["run", "--config", str(path)]))


def test_limits_and_event_settings_are_exchanged_too(begun):
    again, runtime = begun(OWN)
    assert again(OWN.replace("budget-ms = 200", "budget-ms = 300")).endswith("read anew: changed yard")
    assert runtime.given["yard"].limits.budget_ms == 300
    assert again(OWN.replace("event-min = 2", "event-min = 3")).endswith("changed yard")
    assert runtime.given["yard"].events.min_s == 3
    assert again(OWN.replace("event-min = 2", "event-min = 3").replace("0.8", "0.7")).endswith("changed door")
    assert runtime.given["door"].events.threshold == 0.7


def test_whether_events_are_made_takes_a_restart_and_changes_no_camera(begun):
    again, runtime = begun(TWO)
    said = again("events = true\nevent-min = 2\n" + TWO)
    assert said.endswith("the cameras are as they were; this takes a restart: events") and not runtime.changes
    said = again("events = true\n" + TWO + "event-min = 2\n[cameras.new]\nsource = 3\n")
    assert said.endswith("added new; this takes a restart: events") and runtime.given["new"].events is None


def test_a_wrong_file_changes_nothing(begun, path):
    again, runtime = begun(TWO)
    for text, why in [
        (TWO + "fsp = 3\n", "line 6: unknown entry 'fsp'"),
        ("= 3", "line 1"),
        ("threads = 1", "it names no camera"),
        (TWO + "[cameras.bad]\nsource = 'ftp://x'\n", "ftp:// is no source"),
    ]:
        said = again(text)
        assert "could not be read anew, and nothing has changed" in said and why in said
    path.unlink()
    runtime.error = VlfError("no such file")
    assert again(TWO + "[cameras.new]\nsource = 3\n").endswith("nothing has changed: no such file")
    runtime.error = None
    assert again(TWO + "[cameras.new]\nsource = 3\n").endswith("added new"), "still new"
    assert [list(new) for _, new in runtime.changes] == [["new"]]


def test_sources_of_the_command_line_go_on(begun):
    again, runtime = begun(TWO, "a.plan", "7")
    assert again(TWO + "[cameras.new]\nsource = 3\n").endswith("the sources are the command line's, and go on")
    said = again("stall-timeout = 2\n" + TWO)
    assert said.endswith("the sources are the command line's, and go on; this takes a restart: stall-timeout")
    assert not runtime.changes


def test_a_service_goes_on_when_one_camera_changes(toy_plan, path):
    """The command itself: SIGHUP, and SIGTERM at the end."""
    motion = 'source = "test://motion?seconds=60&seed={seed}"\nrealtime = true\n'
    kept, other = "[cameras.kept]\n" + motion.format(seed=1), "[cameras.{name}]\n" + motion.format(seed=2)
    path.write_text(f"plan = '{toy_plan.path}'\nbackend = 'fake'\njson = true\n{kept}{other.format(name='other')}")
    command = [sys.executable, "-m", "vlf_edge", "run", "--config", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    told, errors = [], []
    for stream, kept_lines in ((process.stdout, told), (process.stderr, errors)):
        threading.Thread(target=lambda s=stream, k=kept_lines: k.extend(iter(s.readline, "")), daemon=True).start()

    def wait_for(stream, state, count):
        deadline_s = time.monotonic() + 120
        while sum(f'"stream": "{stream}", "state": "{state}"' in line for line in list(told)) < count:
            assert process.poll() is None and time.monotonic() < deadline_s, (told[-3:], errors)
            time.sleep(0.02)

    try:
        wait_for("kept", "ok", 2), wait_for("other", "ok", 1)
        path.write_text(path.read_text().replace(other.format(name="other"), other.format(name="new")))
        process.send_signal(signal.SIGHUP)
        wait_for("other", "ended", 1), wait_for("new", "ok", 1)
        path.write_text("flip = 3")
        process.send_signal(signal.SIGHUP)
        before = sum('"kept"' in line for line in told)
        wait_for("kept", "ok", before)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=240) == 143
    finally:
        process.kill()
    found = [json.loads(line) for line in told]
    kept_states = [one["state"] for one in found if one["stream"] == "kept"]
    assert kept_states[: kept_states.index("ok")] == ["warming"] * kept_states.index("ok")
    assert set(kept_states[kept_states.index("ok") :]) == {"ok"}, "without a gap"
    others = [one["state"] for one in found if one["stream"] == "other"]
    assert others[-1] == "ended" and others.count("ended") == 1
    said = "".join(errors)
    assert "cameras.toml read anew: added new; removed other" in said
    assert "nothing has changed: " in said and "line 1: flip is 3" in said
