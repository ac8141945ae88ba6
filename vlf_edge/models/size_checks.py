"""What a model's sizes are held to: they come from files of strangers."""

from __future__ import annotations

from typing import Any

from ..errors import VlfError

# So that a damaged or hostile file cannot ask for all memory; 256 for what is not named.
_LARGEST = {"token_dim": 4096, "height_px": 4096, "width_px": 4096, "classes": 100_000}


def check_size(name: str, kind: str, value: Any) -> None:
    """Raises VlfError for the types and ranges that a JSON document could get wrong."""
    wanted: type | tuple[type, ...] = {"str": str, "int": int, "float": (int, float)}.get(kind, dict)
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise VlfError(f"{name} is {value!r}, expected {kind.split('[')[0]}")
    largest = _LARGEST.get(name, 256)
    if kind == "int" and not 1 <= value <= largest:
        raise VlfError(f"{name} is {value}, expected 1 to {largest}")
    if kind == "float" and not 0 <= value < 1:
        raise VlfError(f"{name} is {value}, expected at least 0 and below 1")


def as_tuples(value: Any) -> Any:
    """JSON has no tuples, timm wants them: one form, so that a round trip gives an equal object."""
    if isinstance(value, dict):
        return {str(key): as_tuples(item) for key, item in value.items()}
    return tuple(map(as_tuples, value)) if isinstance(value, (list, tuple)) else value
