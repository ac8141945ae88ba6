"""Engines kept from one start to the next: built once, read whole, never in the way."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from vlf_edge import cache
from vlf_edge.atomic import PARTIAL_PREFIX
from vlf_edge.backends import engine_cache
from vlf_edge.backends.engine_cache import EngineCache, engine_key
from vlf_edge.cache import cache_folder, keep, read_kept

# A start of the program: takes the engine, building it slowly if it must, and leaves a mark for each build.
START = """
import logging, os, sys, time
from pathlib import Path
from vlf_edge.backends.engine_cache import EngineCache
logging.basicConfig(format="%(message)s")
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])

def build():
    (folder / f"build.{os.getpid()}").touch()
    time.sleep(seconds)
    return b"engine"

print(EngineCache(folder / "engines").get_or_build("key", build))
"""


def _start(folder: Path, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", START, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait_for_build(folder: Path, limit_s: float = 120) -> None:
    deadline_s = time.monotonic() + limit_s
    while not list(folder.glob("build.*")):
        assert time.monotonic() < deadline_s, "no build began"
        time.sleep(0.05)


def _never() -> bytes:
    raise AssertionError("built again")


def test_processes_that_start_at_once_build_once(tmp_path):
    first = _start(tmp_path, 1.5)
    _wait_for_build(tmp_path)
    others = [_start(tmp_path, 0.0) for _ in range(2)]
    ended = [start.communicate(timeout=240) for start in (first, *others)]
    assert [out for out, _ in ended] == ["b'engine'\n"] * 3
    assert len(list(tmp_path.glob("build.*"))) == 1
    assert ended[0][1] == ""
    for _, said in ended[1:]:
        assert said in ("", "another start on this machine is building this engine: waiting for it\n")


def test_a_killed_builder_lets_the_next_one_build(tmp_path):
    killed = _start(tmp_path, 600.0)
    _wait_for_build(tmp_path)
    waiting = _start(tmp_path, 0.0)
    assert waiting.stderr.readline() == "another start on this machine is building this engine: waiting for it\n"
    assert waiting.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert waiting.communicate(timeout=240)[0] == "b'engine'\n"
    assert len(list(tmp_path.glob("build.*"))) == 2


@pytest.mark.parametrize("refresh", [False, True])
def test_threads_that_start_at_once_build_once(tmp_path, caplog, refresh):
    keep(tmp_path / "key.engine", b"old") if refresh else None
    begun, go, builds, results = threading.Event(), threading.Event(), [], []

    def build():
        builds.append(threading.get_ident())
        begun.set()
        assert go.wait(60)
        return b"new"

    def start():
        results.append(EngineCache(tmp_path).get_or_build("key", build, refresh=refresh))

    threads = [threading.Thread(target=start) for _ in range(4)]
    threads[0].start()
    assert begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    deadline_s = time.monotonic() + 60
    while len(caplog.records) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert EngineCache(tmp_path).get_or_build("other", lambda: b"other") == b"other", "other engines need not wait"
    go.set()
    for thread in threads:
        thread.join(60)
    assert results == [b"new"] * 4 and len(builds) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "another start on this machine is building this engine: waiting for it"
    ] * 3


def test_what_was_built_is_read_and_refreshed_on_demand(tmp_path):
    engines = EngineCache(tmp_path)
    assert engines.get("key") is None
    assert engines.get_or_build("key", lambda: b"1") == b"1"
    assert EngineCache(tmp_path).get_or_build("key", _never) == b"1" == engines.get("key")
    assert engines.get_or_build("key", lambda: b"2", refresh=True) == b"2" == engines.get("key")


def test_a_failed_build_keeps_nothing_and_frees_the_lock(tmp_path):
    def fails():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        EngineCache(tmp_path).get_or_build("key", fails)
    assert list(tmp_path.glob("*.engine")) == []
    assert EngineCache(tmp_path).get_or_build("key", lambda: b"1") == b"1"


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-1], lambda raw: raw[:30], lambda raw: b"", lambda raw: raw + b"x"]
)
def test_a_damaged_engine_is_built_anew_with_a_warning(tmp_path, caplog, damage):
    engines = EngineCache(tmp_path)
    engines.get_or_build("key", lambda: b"engine")
    path = tmp_path / "key.engine"
    path.write_bytes(damage(path.read_bytes()))
    assert engines.get_or_build("key", lambda: b"again") == b"again"
    assert [record.getMessage() for record in caplog.records] == [f"{path} is damaged and is made anew"]
    assert engines.get("key") == b"again"


def test_a_folder_that_cannot_be_written_costs_only_the_keeping(tmp_path, caplog):
    (tmp_path / "file").touch()
    engines = EngineCache(tmp_path / "file" / "engines")
    assert engines.get_or_build("key", lambda: b"engine") == b"engine"
    (record,) = [
        record for record in caplog.records if record.levelno >= logging.WARNING and "cannot keep" in record.msg
    ]
    assert record.getMessage().startswith(
        f"cannot keep {tmp_path / 'file' / 'engines' / 'key.engine'} for the next start"
    )


def test_the_newest_and_last_read_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_cache, "_MOST_ENTRIES", 3)
    engines = EngineCache(tmp_path)
    for age_s, key in enumerate("dcba"):
        engines.get_or_build(key, lambda: b"engine")
        for path in tmp_path.glob("*.engine"):
            os.utime(path, (time.time() - 100, path.stat().st_mtime - 10 * age_s))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.engine", "b.engine", "c.engine"]
    oldest = min(tmp_path.glob("*.engine"), key=lambda path: path.stat().st_mtime)
    engines.get(oldest.stem)
    engines.get_or_build("e", lambda: b"engine")
    assert oldest.exists() and len(list(tmp_path.glob("*.engine"))) == 3


def test_the_folder_is_bounded_in_bytes_but_keeps_the_newest(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_cache, "_MOST_BYTES", 250)
    engines = EngineCache(tmp_path)
    for size, key in ((100, "a"), (100, "b"), (400, "c")):
        engines.get_or_build(key, lambda size=size: bytes(size))
        time.sleep(0.01)
    assert [path.name for path in tmp_path.glob("*.engine")] == ["c.engine"]


def test_an_entry_that_is_being_built_anew_is_not_thrown_away(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_cache, "_MOST_ENTRIES", 1)
    engines = EngineCache(tmp_path)
    engines.get_or_build("a", lambda: b"a")

    def build():
        engines.get_or_build("b", lambda: b"b")
        assert (tmp_path / "a.engine.lock").exists() and engines.get("a") == b"a"
        return b"anew"

    assert engines.get_or_build("a", build, refresh=True) == b"anew"


def test_what_a_killed_writer_left_is_swept_up(tmp_path):
    left = tmp_path / f"{PARTIAL_PREFIX}left"
    left.touch()
    EngineCache(tmp_path).get_or_build("key", lambda: b"engine")
    assert [path.name for path in tmp_path.iterdir()] == ["key.engine"]


def test_the_key_changes_with_everything_it_depends_on():
    base = {"graph": "1", "version": "10.3", "gpu": ["8.7", "Orin"], "max_batch": 8, "compute_capabilities": ()}
    changes = [{"graph": "2"}, {"version": "10.4"}, {"gpu": ["8.7", "Orin NX"]}, {"max_batch": 1}]
    keys = [engine_key(**base), *(engine_key(**{**base, **change}) for change in changes)]
    keys.append(engine_key(**{**base, "compute_capabilities": ("8.6",)}))
    assert len(set(keys)) == len(keys) and all(len(key) == 64 for key in keys)
    assert engine_key(**dict(reversed(base.items()))) == keys[0]


def test_keep_and_read(tmp_path):
    path = tmp_path / "made" / "thing"
    assert keep(path, b"\0data\n") and read_kept(path) == b"\0data\n"
    assert keep(path, b"") and read_kept(path) == b""
    assert read_kept(tmp_path / "nothing") is None
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700


@contextmanager
def belonging_to_somebody_else(path, monkeypatch):
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
        yield
    else:
        with monkeypatch.context() as patched:
            patched.setattr(os, "geteuid", lambda: 12345)
            yield


def test_what_another_user_owns_is_not_believed(tmp_path, monkeypatch, caplog):
    engines = EngineCache(tmp_path)
    engines.get_or_build("key", lambda: b"engine")
    with belonging_to_somebody_else(tmp_path / "key.engine", monkeypatch):
        assert engines.get("key") is None
    assert "belongs to another user" in caplog.text


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_what_others_can_write_is_not_believed(tmp_path, caplog, mode):
    engines = EngineCache(tmp_path)
    engines.get_or_build("key", lambda: b"engine")
    (tmp_path / "key.engine").chmod(mode)
    assert engines.get_or_build("key", lambda: b"again") == b"again"
    assert f"can be written by others (mode {mode:o})" in caplog.text
    assert (tmp_path / "key.engine").stat().st_mode & 0o777 == 0o600


def test_what_is_kept_is_bound_to_its_name(tmp_path, caplog):
    keep(tmp_path / "one", b"data")
    os.rename(tmp_path / "one", tmp_path / "other")
    assert read_kept(tmp_path / "other") is None and "is damaged" in caplog.text


def test_links_and_fifos_are_not_read(tmp_path, caplog):
    keep(tmp_path / "real", b"data")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "real").symlink_to(tmp_path / "real")
    assert read_kept(tmp_path / "link" / "real") is None
    os.mkfifo(tmp_path / "fifo")
    assert read_kept(tmp_path / "fifo") is None
    assert caplog.text.count("which is made anew") == 2


def test_a_lock_of_one_leaves_nothing_and_waiting_ends_with_its_holder(tmp_path):
    """Many at once, again and again: never two in the block, though each one removes the lock's file."""
    inside, most, path = [], [], tmp_path / "thing"

    def work():
        for _ in range(20):
            with cache.locked(path, "working"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0002)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(most) == 120 and max(most) == 1 and list(tmp_path.iterdir()) == []


def test_where_things_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder("engines") == tmp_path / ".cache" / "vlf_edge" / "engines"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder("ranges") == tmp_path / ".cache" / "vlf_edge" / "ranges"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("engines") == tmp_path / "xdg" / "vlf_edge" / "engines"


def test_without_a_home_things_are_kept_where_nobody_else_can_put_any(tmp_path, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache._folder_without_home.cache_clear()
    try:
        mine = tmp_path / f"vlf_edge-{os.getuid()}"
        assert cache_folder("engines") == mine / "engines"
        assert mine.stat().st_mode & 0o777 == 0o700
        mine.chmod(0o777)
        cache._folder_without_home.cache_clear()
        other = cache_folder("engines").parent
        assert other != mine and other.parent == tmp_path and other.stat().st_mode & 0o777 == 0o700
        assert cache_folder("kernels").parent == other
    finally:
        cache._folder_without_home.cache_clear()
