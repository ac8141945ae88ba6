"""Ctrl-C, SIGTERM and SIGHUP end a program within two seconds, whatever it is at, in one line and with its exit code.

Python's own way, an exception out of nowhere in the main thread, waits until the library that is at work comes back;
and a library that is being imported, or called back, drops it, turns it into an error of its own or aborts the process.
So nothing is raised here. The system wakes a thread that does nothing else, and that ends the process: at once, or,
where something asked to be told first (``telling``), when that is done, a second later at most, or at the next signal.

What must not be cut in two is ``unbroken``; what must not be left behind is cleared away by ``clearing``.
SIGHUP may mean to read a configuration anew instead (``reloading``).
Signals that came ignored (nohup, a shell's background job) stay ignored.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

# Together below two seconds, with some of them left for a machine that is busy.
_GRACE_S, _UNBROKEN_S, _WRITE_S = 1.2, 0.3, 0.1
_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

NextSignal = Callable[[float | None], int | None]


def _nothing() -> None:
    """To be told, where it is enough that there is time."""


def _no_more() -> str:
    return ""


class Ending:
    """How one process ends. ``leave`` ends it with an exit code, as ``os._exit`` does.

    number: the signal that came, if one did. name: of the program. more: gives what its last line says besides.
    """

    def __init__(self, name: str = "vlf-edge", leave: Callable[[int], None] = os._exit):
        self.name, self.more, self._leave = name, _no_more, leave
        self.number: int | None = None
        self.stops: list[Callable[[], None]] = []
        self.clearers: list[Callable[[], None]] = []
        self.reloads: list[Callable[[], None]] = []
        self.unbroken = threading.RLock()
        self._begun = threading.Lock()

    def watch(self, next_signal: NextSignal) -> None:
        """Waits for a signal and obeys it. next_signal: as ``_Wakeup.next_signal``."""
        while (number := next_signal(None)) == signal.SIGHUP and self.reloads:
            threading.Thread(target=self.reloads[-1], name="vlf-reload", daemon=True).start()
        self.number = number
        if self.stops:
            # On yet another thread: it may hang, and the time is limited.
            threading.Thread(target=self.stops[-1], name="vlf-stop", daemon=True).start()
            next_signal(_GRACE_S)
        self.end()

    def end(self) -> None:
        """Clears away, says the line and leaves, with 130 after Ctrl-C, 143 after SIGTERM."""
        code = 128 + (self.number or 0)
        if not self._begun.acquire(blocking=False):  # another thread is at it
            time.sleep(2 * _UNBROKEN_S)
            return self._leave(code)
        self.unbroken.acquire(timeout=_UNBROKEN_S)
        for clear in reversed(self.clearers):
            with suppress(Exception):
                clear()
        _kill_children()
        _say(f"{self.name}: interrupted{self.more()}\n")
        self._leave(code)


class _Wakeup:
    """The pipe into which the system puts the number of every signal that is handled, whatever Python is at."""

    def __init__(self) -> None:
        _fill_standard_streams()
        self._end, self._begin = os.pipe()
        os.set_blocking(self._begin, False)

    def install(self) -> None:
        """Takes SIGINT, SIGTERM and SIGHUP, but for those that are ignored."""
        signal.set_wakeup_fd(self._begin, warn_on_full_buffer=False)
        for number in _NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _handled)

    def next_signal(self, timeout_s: float | None) -> int | None:
        """The number of the next of our signals, or None after ``timeout_s``."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            if not select.select([self._end], [], [], left_s)[0]:
                return None
            if (number := os.read(self._end, 1)[0]) in _NUMBERS:
                return number

    def forget(self) -> None:
        """In a forked child, which has no watching thread: Ctrl-C is its parent's affair, SIGTERM ends it."""
        signal.set_wakeup_fd(-1)
        for number in _NUMBERS:
            if signal.getsignal(number) is _handled:
                signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
        os.close(self._begin)
        os.close(self._end)
        _unblock()


_ending = Ending()


def run(main: Callable[[], int], name: str = "vlf-edge") -> NoReturn:
    """Runs a program that obeys signals as the module says, and exits with what ``main`` returns.

    Call it in the main thread, before anything is imported that takes long: until then Python's own ways hold.
    """
    _ending.name = name
    wakeup = _Wakeup()
    # Between a fork and its end the child would write into our pipe.
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=wakeup.forget)
    done: list[int] = []
    atexit.register(_leave_with, done)  # the first one registered is the last one called
    threading.Thread(target=_ending.watch, args=(wakeup.next_signal,), name="vlf-signals", daemon=True).start()
    wakeup.install()
    try:
        done.append(main())
    except BaseException:
        if asked():  # whatever the signal led to is no news
            _ending.end()
        raise
    sys.exit(done[0])


def asked() -> bool:
    """Whether a signal has asked for the end."""
    return _ending.number is not None


@contextmanager
def telling(stop: Callable[[], None] = _nothing, more: Callable[[], str] = _no_more) -> Iterator[None]:
    """A signal within this block leaves it, and all that follows, a second to finish.

    stop: called then, on another thread, to bring the block to its end; of nested blocks the inner one's.
    more: gives what the program's last line says besides.
    """
    before, _ending.more = _ending.more, more
    _ending.stops.append(stop)
    if asked():  # it came while this block was on its way
        stop()
    try:
        yield
    finally:
        if not asked():
            _ending.stops.pop()
            _ending.more = before


@contextmanager
def reloading(reload: Callable[[], None]) -> Iterator[None]:
    """SIGHUP within this block ends nothing: it is what services are told to read their configuration anew with.

    reload: called then, on another thread.
    """
    _ending.reloads.append(reload)
    try:
        yield
    finally:
        _ending.reloads.remove(reload)


@contextmanager
def clearing(clear: Callable[[], None]) -> Iterator[None]:
    """``clear`` is called if a signal ends the process within this block. What it clears away is best made within
    ``unbroken`` together with the entering of this block."""
    _ending.clearers.append(clear)
    try:
        yield
    finally:
        _ending.clearers.remove(clear)


@contextmanager
def unbroken() -> Iterator[None]:
    """No signal ends the process within this block, which must be short: a few milliseconds."""
    with _ending.unbroken:
        yield


def _handled(number: int, frame: FrameType | None) -> None:
    """Python installs the system's handler, which fills the pipe, only along with one of its own."""


def _block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _NUMBERS)


def _leave_with(done: list[int]) -> None:
    """The last thing called before Python takes itself down, when it takes back our handlers first. Nothing that would
    happen after that is missed: libraries have had their own turn, and the system takes back the rest."""
    if asked():
        _ending.end()
    if done:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(done[0])


def _kill_children() -> None:
    """Worker processes, which would notice only after seconds that they are alone."""
    processes = sys.modules.get("multiprocessing")
    if processes is not None:
        with suppress(Exception):
            for child in processes.active_children():
                child.kill()


def _say(line: str) -> None:
    """On stderr, past its buffer, in which another thread may be writing, and never waiting for a reader."""
    with suppress(OSError, ValueError):
        if select.select([], [2], [], _WRITE_S)[1]:
            on_terminal = os.isatty(2)  # where a line of progress may stand half written
            os.write(2, (("\r\x1b[K" if on_terminal else "") + line).encode(errors="backslashreplace"))


def _fill_standard_streams() -> None:
    """Where stdin, stdout or stderr is closed, the next file opened would get its number, and be written to."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
