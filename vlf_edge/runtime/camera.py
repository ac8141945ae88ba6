"""What a run reads from: sources under the names of their streams, each with settings of its own where it has any."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from ..errors import SourceError
from ..types import MAIN
from ..video.sources import find_source
from .event_settings import EventSettings
from .limits import Limits


@dataclass(frozen=True)
class Camera:
    """A source with settings that hold for its stream alone; it may stand wherever a source may.

    source: see ``find_source``. limits: None is the run's, whose ``engine_timeout_s`` holds in any case. events: when
    its decisions make an event, where events are asked for; None is the run's.
    """

    source: Any
    limits: Limits | None = None
    events: EventSettings | None = None

    @classmethod
    def of(cls, source: Any) -> Camera:
        """A source, with the run's settings where it has none of its own."""
        return source if isinstance(source, Camera) else cls(source)

    def begun(self, stack: ExitStack) -> Camera:
        """As a pipeline takes it: what a camera's Address names is opened there, again and again; anything else is
        opened here and closed by the stack, so that mistakes show. Raises SourceError."""
        address = find_source(self.source)
        again = address.live and address.again
        return replace(self, source=address if again else stack.enter_context(address.open()))


def cameras_by_stream(source: Any) -> dict[str, Camera]:
    """{stream name: Camera} of a source, or of {name: source}. Raises SourceError if there is none."""
    named = source if isinstance(source, Mapping) else {MAIN: source}
    if not named:
        raise SourceError("there is no source to stream from; expected {name: source} with one or more")
    return {str(name): Camera.of(one) for name, one in named.items()}


def find_by_stream(source: Any, *, fps: float | None = None) -> dict[str, Camera]:
    """The same, each with an Address for its source. Raises SourceError."""
    found = cameras_by_stream(source)
    return {name: replace(one, source=find_source(one.source, fps=fps)) for name, one in found.items()}
