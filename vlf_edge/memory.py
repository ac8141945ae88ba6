"""Memory of a program that runs for months.

glibc gives threads arenas of their own, eight for each core, and what one frees another does not get. Decoders of
cameras come and go with their threads, so that each outage leaves holes: measured are some 50 MB of them on two cores.
One arena for all costs no time that could be measured.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_M_ARENA_MAX, _ARENAS = -8, 1  # malloc.h


def one_arena() -> None:
    """Makes threads share one arena, where the C library is glibc and MALLOC_ARENA_MAX says nothing.

    Call it before any thread is started: an arena stays.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    with suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
