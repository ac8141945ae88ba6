"""A sink on a thread of its own, so that a slow one costs no decisions."""

from __future__ import annotations

import logging
import threading

from ...types import Frame, Prediction
from ..channel import Channel, ChannelClosed
from .sink import Sink

log = logging.getLogger(__name__)
_CLOSE_S = 5.0


class ThreadedSink(Sink):
    """Hands its steps to another sink, which it closes, on a thread of its own.

    capacity: most steps that wait. drop_oldest: whether a full one drops its oldest step, as for cameras; else
    ``write`` waits, as for files. ``dropped`` counts the steps that were. What fails in the other sink is raised by
    the next ``write`` or by ``close``.
    """

    def __init__(self, sink: Sink, *, capacity: int = 64, drop_oldest: bool = True):
        self._sink = sink
        self.every_frame = sink.every_frame
        self._steps: Channel[tuple[Frame | None, Prediction | None]] = Channel(capacity, drop_oldest=drop_oldest)
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="vlf-sink", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Steps that the other sink was too slow for."""
        return self._steps.dropped

    @property
    def wants_more(self) -> bool:
        return self._sink.wants_more

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        try:
            self._steps.send((frame, prediction))
        except ChannelClosed:
            self._raise_error()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._steps.close()
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            log.warning("%s still hangs %.0f s after the end and is left alone", type(self._sink).__name__, _CLOSE_S)
        if self.dropped:
            log.warning("%s was too slow for %d steps, which it lacks", type(self._sink).__name__, self.dropped)
        self._raise_error()

    def _write_all(self) -> None:
        try:
            with self._sink:
                for frame, prediction in self._steps:
                    self._sink.write(frame, prediction)
        except BaseException as error:
            self._error = error
            self._steps.close(discard=True)

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
