"""The sources of a run, each under the name of its stream."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..video.sources import hidden


def name_sources(sources: Sequence[str]) -> dict[str, str]:
    """A stream name for each source: the last part of its path, with a number where two are alike."""
    named: dict[str, str] = {}
    for source in sources:
        name = base = os.path.basename(hidden(source).rstrip("/")) or hidden(source)
        number = 1
        while name in named:
            number += 1
            name = f"{base}#{number}"
        named[name] = source
    return named
