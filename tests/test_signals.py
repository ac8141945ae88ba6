"""Ctrl-C and SIGTERM, in a program that obeys ``signals`` and in the pieces it is made of."""

import importlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from signal_moments import VERBS, interrupt, moments

from vlf_edge import BackendMissing, backends, signals
from vlf_edge.atomic import replacing
from vlf_edge.backends import cuda
from vlf_edge.scratch import scratch_folder
from vlf_edge.signals import Ending


@pytest.fixture
def interruptible():
    """Whatever started the tests: shells let background jobs ignore Ctrl-C, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def ending(monkeypatch):
    """That of a process, but for its end: exit codes come into ``left``."""
    left: list[int] = []
    made = Ending("toy", leave=left.append)
    made.left = left
    monkeypatch.setattr(signals, "_ending", made)
    return made


@pytest.mark.parametrize("verb", VERBS)
def test_a_signal_at_any_moment_ends_a_verb(verb, interruptible):
    """All the hundred, over the whole of what a verb does: python tests/signal_moments.py"""
    # Those two take longest.
    count = 1 if verb in ("build from weights", "train") else 2
    # Two seconds are for a machine that has nothing else to do: below, and measured by the script.
    ends = moments(verb, count, seed=1, within_s=5.0, limit_s=20.0)
    assert {end.how for end in ends} <= {"interrupted", "before us", "over"}, ends


def test_a_verb_that_fails_before_its_signal_is_noticed():
    end = interrupt(("-c", "raise SystemExit('no such thing')"), 20.0, signal.SIGINT, whole_group=False, twice=False)
    assert end.how == "failed undisturbed: no such thing\n"


def toy(main: str, *, number: int, times: int = 1, ready: str = "ready\n") -> subprocess.CompletedProcess:
    """Runs ``main``, a function body that prints "ready" when the signal may come."""
    lines = "".join(f"    {line}\n" for line in main.splitlines())
    code = f"import os, signal, sys, threading, time\nfrom vlf_edge import signals\ndef main():\n{lines}"
    process = subprocess.Popen(
        [sys.executable, "-c", code + "signals.run(main, 'toy')"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == ready
    for _ in range(times):
        process.send_signal(number)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(code, process.returncode, out, err)


READY = "print('ready', flush=True)\n"


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize(
    "main",
    [
        "try:\n    time.sleep(60)\nexcept BaseException:\n    time.sleep(60)",  # what drops every exception
        "import ctypes\nwhile True:\n    ctypes.CDLL(None).sleep(60)",  # a library at work, which a signal wakes
        "threading.Thread(target=time.sleep, args=(60,)).start()",  # a main thread that is through
        "import atexit\natexit.register(time.sleep, 60)\nreturn 0",  # and an interpreter that takes itself down
    ],
)
def test_whatever_a_program_is_at_it_ends(main, number, code, interruptible):
    done = toy(READY + main, number=number)
    assert (done.returncode, done.stderr) == (code, "toy: interrupted\n")


def test_a_program_gets_time_to_finish(interruptible):
    stop = "stop = threading.Event()\nwith signals.telling(stop.set):\n    "
    done = toy(f"{stop}print('ready', flush=True)\n    stop.wait()\nprint('finished')\nreturn 0", number=signal.SIGTERM)
    assert (done.returncode, done.stdout, done.stderr) == (143, "finished\n", "toy: interrupted\n")


def test_an_error_that_comes_of_a_signal_is_no_news(interruptible):
    stop = "stop = threading.Event()\nwith signals.telling(stop.set):\n    "
    done = toy(f"{stop}print('ready', flush=True)\n    stop.wait()\n    raise OSError('gone')", number=signal.SIGINT)
    assert (done.returncode, done.stderr) == (130, "toy: interrupted\n")


def test_undisturbed_a_program_ends_with_what_main_returns():
    code = "from vlf_edge import signals\nsignals.run(lambda: print('all') or 3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "all\n", "")


def test_children_go_too_and_ctrl_c_is_not_theirs(interruptible):
    work = "from multiprocessing import get_context\n"
    work += "child = get_context('fork').Process(target=time.sleep, args=(60,))\n"
    work += "child.start()\nos.kill(child.pid, signal.SIGINT)\ntime.sleep(0.2)\nassert child.is_alive()\n"
    done = toy(f"{work}print(child.pid, file=sys.stderr, flush=True)\n{READY}time.sleep(60)", number=signal.SIGINT)
    pid, said = done.stderr.splitlines()
    assert (done.returncode, said) == (130, "toy: interrupted")
    until_s = time.monotonic() + 60  # it was told to end before the program did, and does so in its own time
    while alive(int(pid)) and time.monotonic() < until_s:
        time.sleep(0.01)
    assert not alive(int(pid))


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_is_ignored_stays_ignored():
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nfrom vlf_edge import signals\n"
    code += "import os\nsignals.run(lambda: os.kill(os.getpid(), signal.SIGINT) or 0)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_second_signal_or_the_end_of_the_time_is_the_end(ending, capfd):
    for second in (signal.SIGINT, None):  # None: time is up
        waited: list[float | None] = []
        told = threading.Event()
        arrivals = iter([signal.SIGINT, second])

        def next_signal(timeout_s, waited=waited, arrivals=arrivals):
            waited.append(timeout_s)
            return next(arrivals)

        one = Ending("toy", leave=ending.left.append)
        one.stops.append(told.set)
        one.watch(next_signal)
        assert told.wait(60) and waited == [None, signals._GRACE_S]
    assert ending.left == [130, 130] and capfd.readouterr().err == "toy: interrupted\n" * 2


def test_the_time_to_finish_and_all_else_is_below_two_seconds():
    assert signals._GRACE_S + 2 * signals._UNBROKEN_S + signals._WRITE_S < 2


def test_half_written_files_and_folders_are_cleared_away(ending, tmp_path, capfd):
    with pytest.raises(ValueError), scratch_folder("work-", tmp_path) as folder:  # a closed file, put in its place
        Path(folder, "x").write_text("half")
        with replacing(tmp_path / "out") as file:
            file.write(b"half")
            ending.end()
            assert list(tmp_path.iterdir()) == []
    assert ending.left == [128] and not (tmp_path / "out").exists()
    assert ending.clearers == []


def test_what_is_unbroken_is_waited_for(ending, capfd):
    inside, over = threading.Event(), []

    def work():
        with signals.unbroken():
            inside.set()
            over.append(not ending.left)

    thread = threading.Thread(target=work)
    with signals.unbroken():
        thread.start()
        assert not inside.wait(0.05)
    thread.join()
    ending.end()
    assert over == [True] and ending.left == [128]


def test_the_inner_block_is_told_and_late_comers_at_once(ending):
    told = []
    with signals.telling(lambda: told.append("outer"), lambda: "; more"):
        with signals.telling(lambda: told.append("inner")):
            assert len(ending.stops) == 2
        assert ending.more() == "; more" and len(ending.stops) == 1
        ending.number = signal.SIGINT
        with signals.telling(lambda: told.append("late")):
            pass
    assert told == ["late"] and signals.asked()


def test_a_closed_stderr_is_not_taken_for_the_pipe():
    """What a library writes there, here the numbers of signals, would end the program."""
    main = "lambda: os.write(2, bytes([signal.SIGINT])) and 0"
    code = f"import os, signal; from vlf_edge import signals; signals.run({main})"
    done = subprocess.run(["bash", "-c", f'{sys.executable} -c "{code}" <&- >&- 2>&-'])
    assert done.returncode == 0


@pytest.mark.parametrize("probe", [lambda: backends.load("openvino"), cuda.load_runtime])
def test_an_import_that_was_interrupted_is_no_library_that_is_missing(probe, monkeypatch):
    """In programs that handle Ctrl-C in Python's way, where libraries in C make it an error of their own."""

    def interrupted(name):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as cause:
            raise ImportError("initialization failed") from cause

    monkeypatch.setattr(backends, "installed", lambda library: True)
    monkeypatch.setattr(importlib, "import_module", interrupted)
    with pytest.raises(KeyboardInterrupt):
        probe()
    monkeypatch.setattr(importlib, "import_module", lambda name: __import__("no_such_module"))
    with pytest.raises(BackendMissing):
        probe()
