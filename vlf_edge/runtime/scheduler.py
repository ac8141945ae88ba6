"""Which frames go next: the waiting frames of all streams, as batches for the executor. No threads here.

Every stream has a queue of its own. A batch takes at most one frame that is due from each, those that arrived first
before others, so that no stream starves another however fast it is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..types import Frame, Prediction
from .stream import DueFrame, Stream

# Frames that are due, for each camera: one in the executor's hands soon, one fresh. More would only age.
DUE_PER_CAMERA = 2
# Frames between, for sinks that want all of them.
_PASSING_PER_CAMERA = 8
_WAITING_PER_FILE = 8


@dataclass(slots=True, eq=False)
class Waiting:
    """A frame of a stream on its way. due: as the executor takes it; None for a frame between two instants, and for
    word that there is no signal or that the stream has ended, which has no frame but its prediction already."""

    stream: Stream
    frame: Frame | None
    due: DueFrame | None
    prediction: Prediction | None = None


class Backlog:
    """The waiting frames of open streams.

    max_batch: most frames that are due in one batch. max_delay_s: how long the first of them may wait for others.
    """

    def __init__(self, max_batch: int, max_delay_s: float = 0.0):
        self._max_batch, self._max_delay_s = max_batch, max_delay_s
        self._queues: dict[Stream, deque[Waiting]] = {}
        self._live: set[Stream] = set()
        self._open: set[Stream] = set()

    def open(self, stream: Stream, *, live: bool) -> None:
        """Adds a stream. live: its frames lose their worth, so the oldest are dropped when there are too many."""
        self._queues[stream] = deque()
        self._open.add(stream)
        if live:
            self._live.add(stream)

    def __contains__(self, stream: Stream) -> bool:
        """Whether a stream was opened and not removed."""
        return stream in self._queues

    def is_live(self, stream: Stream) -> bool:
        """Whether a stream's frames lose their worth."""
        return stream in self._live

    def end(self, stream: Stream) -> None:
        """No more frames come from a stream; those that wait are still given out."""
        self._open.discard(stream)

    @property
    def ended(self) -> bool:
        """Whether nothing waits and nothing will come."""
        return not self._open and not any(self._queues.values())

    def must_wait(self, stream: Stream) -> bool:
        """Whether a stream whose every frame counts has as many waiting as it may; never of one that was removed."""
        return stream not in self._live and len(self._queues.get(stream, ())) >= _WAITING_PER_FILE

    def offer(self, waiting: Waiting) -> None:
        """Adds a frame. Where the cameras' frames are too many, the stream most behind loses its oldest that was due,
        counted as dropped; the frame after it stands in for it where it may."""
        queue = self._queues.get(waiting.stream)
        if queue is None:  # the stream was removed while this was on its way
            if waiting.due is not None:
                waiting.stream.stats.drop("at_end")
            return
        queue.append(waiting)
        if waiting.stream not in self._live:
            return
        if waiting.due is None:
            passing = [other for other in queue if other.due is None]
            if len(passing) > _PASSING_PER_CAMERA:
                queue.remove(passing[0])
            return
        due = {stream: sum(w.due is not None for w in self._queues[stream]) for stream in self._live}
        if sum(due.values()) > DUE_PER_CAMERA * len(self._live):
            self._drop_oldest(max(due, key=due.__getitem__))

    def ready_in_s(self, now_s: float) -> float | None:
        """Seconds until ``take`` should be called: 0 for now, None while nothing waits. now_s: ``time.monotonic()``."""
        oldest_s, due, passing = now_s, 0, False
        for queue in self._queues.values():
            first = next((waiting.due for waiting in queue if waiting.due is not None), None)
            if first is not None:
                due += 1
                oldest_s = min(oldest_s, first.captured_s)
            passing = passing or bool(queue) and queue[0].due is None
        if passing or due >= min(self._max_batch, max(1, len(self._open))):
            return 0.0
        return max(0.0, oldest_s + self._max_delay_s - now_s) if due else None

    def take(self) -> list[Waiting]:
        """The next batch: at most one frame that is due of each stream, and the frames between that came before it."""
        heads = {
            stream: first
            for stream, queue in self._queues.items()
            if (first := next((waiting for waiting in queue if waiting.due is not None), None)) is not None
        }
        chosen = sorted(heads, key=lambda stream: heads[stream].due.captured_s)[: self._max_batch]
        taken: list[Waiting] = []
        for stream, queue in self._queues.items():
            while queue and queue[0].due is None:
                taken.append(queue.popleft())
            if stream in chosen:
                taken.append(queue.popleft())
        return taken

    def discard(self) -> None:
        """Drops everything that waits: the run has ended."""
        for stream in self._queues:
            self._discard(stream)

    def remove(self, stream: Stream) -> None:
        """Drops a stream with what waits of it."""
        self._discard(stream)
        self._queues.pop(stream, None)
        self._open.discard(stream)
        self._live.discard(stream)

    def _discard(self, stream: Stream) -> None:
        queue = self._queues.get(stream, deque())
        for waiting in queue:
            if waiting.due is not None:
                stream.stats.drop("at_end")
        queue.clear()

    def _drop_oldest(self, stream: Stream) -> None:
        queue = self._queues[stream]
        number, lost = next((n, waiting) for n, waiting in enumerate(queue) if waiting.due is not None)
        del queue[number]
        stream.stats.drop("overload")
        following = next(waiting.due for waiting in queue if waiting.due is not None)
        following.dropped += lost.due.dropped + 1
        following.slot = stream.sampler.stand_in(lost.due.slot, following.slot, following.t_s)
