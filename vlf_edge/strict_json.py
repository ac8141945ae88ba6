"""JSON from strangers: bounded before it is parsed, and nothing in it that could not be written out again."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_BYTES = 16 << 20
MAX_VALUES = 1_000_000  # each costs Python some 60 bytes, however short it is in the file
MAX_DEPTH = 32  # far below where Python's own recursion, in json and copy, ends


def parse(data: bytes) -> Any:
    """The value of UTF-8 JSON.

    Raises ValueError, with the reason, for what is no JSON or oversized; for NaN and infinities, which JSON does not
    know but Python reads; whole numbers beyond 64 bits, halves of surrogate pairs, and nesting beyond ``MAX_DEPTH``.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has {len(data)} bytes; the limit is {MAX_BYTES}")
    values = sum(map(data.count, (b",", b"[", b"{")))  # more than there are, for commas in strings count too
    if values > MAX_VALUES:
        raise ValueError(f"it has about {values} values; the limit is {MAX_VALUES}")
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    _check(value)
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no JSON")


def _check(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item
                inner += item.values()
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, str):
                item.encode("utf-8")  # UnicodeEncodeError is a ValueError
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError("it holds a number too large for 64 bits")
            elif isinstance(item, int) and not -(1 << 63) <= item < 1 << 63:
                raise ValueError("it holds a whole number beyond 64 bits")
        if not inner:
            return
        level = inner
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
