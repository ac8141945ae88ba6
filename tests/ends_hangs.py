"""A pytest plugin: a process of tests that hangs ends, with the stacks of all its threads.

pytest-timeout raises an error in the main thread, once. What drops it, or waits on while it passes (the end of a
fixture, a ``finally``, ``Popen`` as a context), would still hang for ever, and so would an interpreter that ends beside
a thread that is no daemon. Here a thread in C watches, which needs nothing of Python.
"""

from __future__ import annotations

import faulthandler
import os

import pytest

_STDERR = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("ends_after_s", "a process that is longer in one phase of a test ends, in seconds", default="330")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STDERR] = os.dup(2)  # while a test runs, 2 is a file that would be lost with the process


def _watch(config: pytest.Config) -> None:
    faulthandler.dump_traceback_later(float(config.getini("ends_after_s")), exit=True, file=config.stash[_STDERR])


def pytest_runtest_setup(item: pytest.Item) -> None:
    _watch(item.config)


def pytest_runtest_call(item: pytest.Item) -> None:
    _watch(item.config)


def pytest_runtest_teardown(item: pytest.Item) -> None:
    _watch(item.config)  # once more: pytest stops what watches when a test fails


def pytest_runtest_logfinish() -> None:
    faulthandler.cancel_dump_traceback_later()  # a worker may wait for others now


def pytest_unconfigure(config: pytest.Config) -> None:
    _watch(config)
