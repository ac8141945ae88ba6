"""Pipeline: sources in, steps out, with threads in between (work.py)."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from ..types import MAIN
from ..video.sources import Address, Source
from .camera import Camera
from .clock import Clock
from .limits import Limits
from .outbox import Step
from .recognizer import Recognizer
from .work import JOIN_S, Work


def _nothing() -> None:
    """To be called once a second, where nothing is to be done."""


class Pipeline:
    """Runs sources through a recogniser, each as a stream of its own; iterate over it for the steps, once.

    sources: {stream name: Source, Address, or Camera of one}, or one of them; closed with the pipeline, while the
    recogniser stays open. An Address is opened here, and again if it is a camera's.
    every_frame: also hand over the steps without a prediction (for video sinks); otherwise only those with one.
    max_batch_delay_s: how long a frame may wait for frames of other streams, to be run in one batch with them.
    limits: how long to wait for what. clock: what they are measured by. every_second: called about so often.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        sources: Mapping[str, Source | Address | Camera] | Source | Address | Camera,
        *,
        every_frame: bool = False,
        max_batch_delay_s: float = 0.0,
        limits: Limits | None = None,
        clock: Clock | None = None,
        every_second: Callable[[], None] = _nothing,
    ):
        named = dict(sources) if isinstance(sources, Mapping) else {MAIN: sources}
        self._work = Work(
            recognizer, named, every_frame, max_batch_delay_s, limits or Limits(), clock or Clock(), every_second
        )
        # The threads know the work and not this object: dropped without a close, it still ends them.
        self._end = weakref.finalize(self, self._work.close)
        self._work.start()

    def __iter__(self) -> Iterator[Step]:
        try:
            while (step := self._work.receive()) is not None:
                yield step
        finally:
            self.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """Stops the threads and closes the sources. Idempotent; returns within two seconds even if a source hangs in
        a read or an opening, or an engine in a run."""
        self._end()
        self._work.closed.wait(JOIN_S)  # another thread may be at it

    @property
    def name(self) -> str:
        """The names of the sources, for messages."""
        return ", ".join(capture.name for capture in self._work.captures)

    def exchange(self, gone: Collection[str], new: Mapping[str, Source | Address | Camera]) -> None:
        """Ends streams and begins others, from any thread; those that are neither go on undisturbed.

        gone: stream names; each has a last step of the state "ended", and its counts stay. new: {stream name: source};
        one whose name is gone too takes its place, with a window of its own. A run without any stream ends. Returns
        within two seconds, as ``close`` does. Raises VlfError for names that do not fit, for too many streams and once
        the run is over; nothing has changed then, and the sources are the caller's to close.
        """
        self._work.exchange(gone, new)

    def reports(self) -> dict[str, dict[str, Any]]:
        """{stream: what is known of its source} (``Capture.report``)."""
        captures = {**self._work.former, **{capture.stream.name: capture for capture in self._work.captures}}
        return {name: capture.report() for name, capture in captures.items()}

    @property
    def running(self) -> bool:
        """True while the recogniser is in use."""
        return self._work.inferring.is_alive()
