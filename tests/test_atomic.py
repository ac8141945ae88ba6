"""Files that are complete or not there at all: permissions, devices, links, failures and kills."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading

import pytest

from vlf_edge.atomic import PARTIAL_PREFIX, Replacement, open_regular, replacing
from vlf_edge.scratch import partial_folder

# A writer that is killed while it writes.
WRITER = """
import sys, time
from pathlib import Path
from vlf_edge.atomic import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(600)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_new_file_takes_the_place_in_one_step(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and names(tmp_path) == ["file"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_file_and_folder_are_on_the_disk_in_that_order(tmp_path, monkeypatch):
    steps, fsync, replace = [], os.fsync, os.replace

    def synced(handle):
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *paths: (steps.append("replace"), replace(*paths)))
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert steps == ["file", "replace", "folder"]


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_is_respected(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "file"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_a_private_file_stays_private(tmp_path):
    path = tmp_path / "file"
    path.touch(mode=0o600)
    with replacing(path):
        pass
    assert path.stat().st_mode & 0o777 == 0o600


def test_neither_devices_nor_fifos_nor_folders_nor_links_are_replaced(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nothing")
    before = names(tmp_path)
    for name, why in (
        ("fifo", "a device, a FIFO or a socket"),
        ("folder", "Is a directory"),
        ("link", "symbolic link to real"),
        ("dangling", "symbolic link to nothing"),
        ("/dev/null", "a device"),
    ):
        with pytest.raises(OSError, match=why), replacing(tmp_path / name):
            raise AssertionError("opened")
    assert names(tmp_path) == before and (tmp_path / "real").read_bytes() == b"old"
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_link_put_there_meanwhile_is_not_replaced_either(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(OSError, match="symbolic link"), replacing(path):
        path.symlink_to("elsewhere")
    assert names(tmp_path) == ["file"] and path.is_symlink()


def test_what_a_killed_writer_left_is_removed_by_the_next_one_but_not_what_is_being_written(tmp_path):
    with Replacement(tmp_path / "other").file as alive:
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "file")], stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"writing\n"
        with replacing(tmp_path / "third"):
            assert len(names(tmp_path)) == 3, "two others write"
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        assert len(names(tmp_path)) == 3 and not (tmp_path / "file").exists()
        with replacing(tmp_path / "third"):
            pass
        assert [name.startswith(PARTIAL_PREFIX) for name in names(tmp_path)] == [True, False], alive


def test_writers_at_once_do_not_take_each_others_files_for_left_ones(tmp_path):
    errors = []

    def write(number):
        try:
            for _ in range(30):
                with replacing(tmp_path / f"file{number % 2}") as file:
                    file.write(b"whole")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors and names(tmp_path) == ["file0", "file1"] and (tmp_path / "file0").read_bytes() == b"whole"


def test_reading_a_fifo_or_a_device_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/zero"):
        with pytest.raises(OSError, match="a device, a FIFO or a socket"):
            open_regular(path)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


FOLDER_MAKER = """
import sys, time
from pathlib import Path
from vlf_edge.scratch import partial_folder
with partial_folder(Path(sys.argv[1])) as folder:
    Path(folder, "half").touch()
    print("writing", flush=True)
    time.sleep(600)
"""


def test_the_folder_of_a_killed_export_is_removed_by_the_next_one(tmp_path):
    maker = subprocess.Popen([sys.executable, "-c", FOLDER_MAKER, str(tmp_path)], stdout=subprocess.PIPE)
    assert maker.stdout.readline() == b"writing\n"
    with partial_folder(tmp_path), replacing(tmp_path / "file"):
        assert len(names(tmp_path)) == 3, "the other one still writes"
    maker.kill(), maker.communicate()
    assert len(names(tmp_path)) == 2
    with partial_folder(tmp_path):
        assert len(names(tmp_path)) == 2
    assert names(tmp_path) == ["file"]
