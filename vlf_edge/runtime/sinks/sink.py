"""What a sink is. It runs on the caller's thread, and its errors are the caller's; a ThreadedSink has its own."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ...types import Event, Frame, Prediction


class Sink(ABC):
    """Takes the steps of a pipeline one by one."""

    every_frame = False
    """True if the sink also wants the frames that led to no prediction."""

    @abstractmethod
    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        """One step: a frame and, where it led to one, its prediction. Both name their stream.

        frame: None where a camera gives none, and the prediction's state is "no_signal".
        """

    def write_event(self, event: Event) -> None:
        """An action that has begun (``t_end_s`` is None) or ended, where events are asked for; without effect here."""

    @property
    def wants_more(self) -> bool:
        """False ends the run, as when somebody has closed the window."""
        return True

    def close(self) -> None:
        """Finishes the output; idempotent."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()
