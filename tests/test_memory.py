"""Memory of programs that run for months."""

import os
import subprocess
import sys

import pytest

ARENAS = """
import ctypes, re, tempfile, threading
from vlf_edge import memory
{before}
barrier = threading.Barrier(24)
def allocate():
    held = [bytearray(1000) for _ in range(100)]
    barrier.wait(60)
threads = [threading.Thread(target=allocate) for _ in range(24)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as file:
    handle = libc.fopen(file.name.encode(), b"w")
    libc.malloc_info(0, ctypes.c_void_p(handle))
    libc.fclose(ctypes.c_void_p(handle))
    print(file.read().count(b"<heap"))
"""


def arenas(before: str = "", **environment: str) -> int:
    code = ARENAS.format(before=before)
    clean = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**clean, **environment})
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(os, "confstr") or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="no glibc")
def test_threads_share_one_arena_unless_the_environment_says_otherwise():
    assert arenas() > 3, "else this test sees nothing"
    assert arenas("memory.one_arena()") == 1
    assert arenas("import numpy; memory.one_arena()") == 1
    assert arenas("memory.one_arena()", MALLOC_ARENA_MAX="3") == 3


def test_where_there_is_no_glibc_it_does_nothing(monkeypatch):
    from vlf_edge import memory

    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.one_arena()
