"""Threads at the edge: one captures, one infers, the caller consumes.

    capture thread --frames--> inference thread --steps--> caller

A camera's channels drop the oldest, a file's wait. Whatever fails closes the channels on both of its sides, with its
error: the caller gets it after the steps that were already made, and every thread ends.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import NamedTuple

from ..types import Frame, Prediction
from ..video.sources import Source
from .channel import Channel, ChannelClosed
from .recognizer import Recognizer

log = logging.getLogger(__name__)
_JOIN_S = 5.0


class Step(NamedTuple):
    """A frame that reached the recogniser, and the prediction it led to, if any."""

    frame: Frame
    prediction: Prediction | None


class Pipeline:
    """Runs a source through a recogniser on two threads; iterate over it for the steps, once.

    The source is closed with the pipeline; the recogniser stays open. every_frame: also hand over the steps without a
    prediction (for video sinks); otherwise only those with one.
    """

    def __init__(self, recognizer: Recognizer, source: Source, *, every_frame: bool = False):
        self._recognizer, self.source, self._every_frame = recognizer, source, every_frame
        # Two frames: one in the recogniser's hands soon, one fresh. More would only age.
        self._frames: Channel[Frame] = Channel(2 if source.live else 8, drop_oldest=source.live)
        self._steps: Channel[Step] = Channel(64, drop_oldest=source.live)
        self._closed = False
        self._capturing = threading.Thread(target=self._capture, name="vlf-capture", daemon=True)
        self._inferring = threading.Thread(target=self._infer, name="vlf-infer", daemon=True)
        self._capturing.start()
        self._inferring.start()

    def __iter__(self) -> Iterator[Step]:
        try:
            yield from self._steps
        finally:
            self.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """Stops both threads and closes the source. Idempotent; returns even if the source hangs in a read."""
        self._steps.close(discard=True)
        self._frames.close(discard=True)
        self.source.close()
        # No time limit here: engines must not be freed under a running inference, and those always come to an end.
        if threading.current_thread() is not self._inferring:  # the garbage collector closes from any thread
            self._inferring.join()
        self._capturing.join(0 if self._closed else _JOIN_S)
        if self._capturing.is_alive() and not self._closed:
            log.warning("%s still hangs in a read %.0f s after it was closed", self.source.name, _JOIN_S)
        self._closed = True

    @property
    def running(self) -> bool:
        """True while the recogniser is in use."""
        return self._inferring.is_alive()

    def _capture(self) -> None:
        try:
            for frame in self.source:
                self._frames.send(frame)
        except ChannelClosed:
            pass
        except BaseException as error:
            self._frames.close(error)
        else:
            self._frames.close()

    def _infer(self) -> None:
        counted = 0
        lost = 0
        try:
            for frame in self._frames:
                newly_lost = self._frames.dropped - counted
                counted += newly_lost
                lost += newly_lost
                self._recognizer.stats.counts.update(captured=newly_lost, dropped=newly_lost)
                prediction = self._recognizer.push(
                    frame.image, frame.t_s, seq=frame.seq, captured_s=frame.captured_s, dropped=lost
                )
                if prediction is not None:
                    lost = 0
                if prediction is not None or self._every_frame:
                    self._steps.send(Step(frame, prediction))
                    self._recognizer.stats.counts["undelivered"] = self._steps.dropped
        except ChannelClosed:
            pass
        except BaseException as error:
            self._frames.close(discard=True)
            self._steps.close(error)
        else:
            self._steps.close()
