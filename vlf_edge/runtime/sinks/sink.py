"""What a sink is. It runs on the caller's thread, and its errors are the caller's; a ThreadedSink has its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import VlfError
from ...types import Event, Frame, Prediction
from ...video.sources import Source
from .health import Health


class Sink(ABC):
    """Takes the steps of a pipeline one by one, and events where they are asked for.

    After an error a sink can be written to again: a ThreadedSink does.
    """

    every_frame = False
    """True if the sink also wants the frames that led to no prediction."""

    health: Health | None = None
    """For a sink that delivers on a thread of its own, or later: how that goes."""

    @property
    def name(self) -> str:
        """What messages call it, without secrets."""
        return type(self).__name__

    @abstractmethod
    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        """One step: a frame and, where it led to one, its prediction. Both name their stream.

        frame: None where a camera gives none, and the prediction's state is "no_signal", and where a
        stream of several has ended, or was taken out of the run: "ended". One of the same name may come after that.
        """

    def write_event(self, event: Event) -> None:
        """An action that has begun (``t_end_s`` is None) or ended, where events are asked for; without effect here."""

    @property
    def wants_more(self) -> bool:
        """False ends the run, as when somebody has closed the window."""
        return True

    def stats(self) -> dict[str, Any] | None:
        """``Health.stats`` of a sink that has one, with what else it counts, as plain JSON values."""
        return None if self.health is None else self.health.stats()

    def clip_of(self, stream: str, event_id: int) -> Path | None:
        """The video of an event, of a sink that makes them; None if there is none (yet). Any thread may ask."""
        return None

    def no_more(self) -> None:
        """Nothing more will be written, and ``close`` follows: several sinks can then finish at the same time."""

    def close(self) -> None:
        """Finishes the output; idempotent."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()


@dataclass(frozen=True)
class Run:
    """What sinks of the command line may have to know of their run. sources: by the name of their stream. events:
    whether events are made."""

    sources: Mapping[str, Source]
    events: bool

    @property
    def live(self) -> bool:
        """Whether frames come at their own pace, from one source at least, so that no sink may hold it up."""
        return any(source.live for source in self.sources.values())

    def need_events(self, flag: str) -> None:
        """Raises VlfError where no events are made."""
        if not self.events:
            raise VlfError(f"{flag} is for events, and none are asked for; add --events")
