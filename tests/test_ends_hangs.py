"""Tests that hang, each in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DROPS = """
def test():
    while True:
        try:
            event.wait()
        except BaseException:
            pass
"""
FIXTURE = """
@pytest.fixture
def made():
    yield
    event.wait()

def test(made):
    raise ValueError
"""
THREAD = """
def test():
    threading.Thread(target=event.wait).start()
"""


@pytest.mark.parametrize("hang", [DROPS, FIXTURE, THREAD], ids=["in a test", "in a fixture", "at the end"])
def test_what_hangs_ends_with_the_stacks_of_all_threads(hang, tmp_path):
    path = tmp_path / "test_hangs.py"
    path.write_text(f"import threading, pytest\nevent = threading.Event()\n{hang}")
    words = ["-p", "ends_hangs", "-p", "pytest_timeout", "-o", "timeout=1", "-o", "ends_after_s=2", "-c", os.devnull]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "--rootdir", tmp_path, path],
        capture_output=True, text=True, timeout=240,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    assert done.returncode == 1 and "Timeout (0:00:02)!" in done.stderr and "in wait" in done.stderr, done
