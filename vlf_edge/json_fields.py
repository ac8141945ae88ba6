"""Values of JSON from a stranger, each held to its type and its limits. TypeError and ValueError say which is wrong."""

from __future__ import annotations

from typing import Any

MAX_CHARACTERS = 300  # of a label or name


def text(raw: Any, what: str, least: int = 1) -> str:
    """Text of ``least`` to MAX_CHARACTERS characters that can be printed."""
    # Names are printed: control characters would reach the terminal.
    if not least <= len(checked(raw, str, what)) <= MAX_CHARACTERS or not raw.isprintable():
        raise ValueError(f"{what} {raw[:60]!r}, expected {least} to {MAX_CHARACTERS} characters that can be printed")
    return raw


def listed(raw: Any, what: str, most: int, least: int = 1) -> list[Any]:
    """A list of ``least`` to ``most`` items."""
    if not least <= len(checked(raw, (list, tuple), what)) <= most:
        raise ValueError(f"{len(raw)} {what}, expected {least} to {most}")
    return raw


def number(raw: Any, what: str, least: int, most: int) -> int:
    """A whole number."""
    if not least <= checked(raw, int, what) <= most:
        raise ValueError(f"{what} is {raw}, expected {least} to {most}")
    return raw


def checked(value: Any, kind: type | tuple[type, ...], what: str) -> Any:
    """A value of a type; True and False are no numbers."""
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = kind[0] if isinstance(kind, tuple) else kind
        raise TypeError(f"{what} is {type(value).__name__}, expected {expected.__name__}")
    return value
