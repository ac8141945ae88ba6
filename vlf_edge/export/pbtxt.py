"""Protocol buffers' text format, as far as a Triton model configuration needs it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Symbol(str):
    """The name of an enum's value: written without quotes."""


def pbtxt(fields: Mapping[str, Any], comment: Sequence[str] = ()) -> bytes:
    """A message as UTF-8 text.

    fields: name -> str, Symbol, int, a mapping (a message), a list of numbers, or a list of mappings (a repeated
    message, or the entries of a map). comment: lines above it; what is in them stays a comment.
    """
    lines = [*(f"# {' '.join(line.split())}" for line in comment), *_lines(fields)]
    return ("\n".join(lines) + "\n").encode()


def _lines(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            value = [value]
        if not isinstance(value, list):
            yield f"{name}: {_scalar(value)}"
        elif all(isinstance(entry, Mapping) for entry in value):
            for entry in value:
                inside = [f"  {line}" for line in _lines(entry)]
                yield from (f"{name} {{", *inside, "}") if inside else (f"{name} {{ }}",)
        else:
            yield f"{name}: [ {', '.join(map(_scalar, value))} ]"


def _scalar(value: str | int) -> str:
    # JSON's escapes are those of the text format.
    return str(value) if isinstance(value, (Symbol, int)) else json.dumps(value, ensure_ascii=False)
