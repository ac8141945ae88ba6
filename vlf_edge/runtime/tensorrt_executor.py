"""Two stages with everything between images and logits on the GPU, rings included: one wait for a step's decisions.

    images -> upload -> frame stage -> rings of the streams -> windows -> clip stage -> logits -> download

All of it is queued on one CUDA stream, in this order; the computer waits once, for the logits.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..backends import cuda
from ..backends.gpu_frame import GpuFrame, names_no_stream, view_gpu_frame
from ..backends.tensorrt import GpuTensor, TensorRTEngine
from ..errors import PlanMismatch, ShapeError, VlfError
from ..manifest import StageRoles
from ..types import Sampling
from .executor import Executor, StageRunner
from .stats import Stats
from .stream import DueFrame, Stream

log = logging.getLogger(__name__)

# Streams come one by one: memory for as many again as there are, and for no more of them than this.
_MOST_RINGS_AT_ONCE = 32


class TensorRTExecutor(Executor):
    """Two TensorRT engines on one GPU. What they need for one stream is allocated here, more when more streams come.

    The memory goes with the engines. Raises PlanMismatch if the second stage does not take what the first one gives.
    """

    def __init__(
        self,
        stages: Sequence[StageRoles],
        engines: Mapping[str, TensorRTEngine],
        sampling: Sampling,
        stats: Stats,
        answer: Sequence[str] = ("logits",),
    ):
        super().__init__(stages, engines, sampling, stats, answer)
        tokens, window = _spec(self.encoder, self.encoder.output), _spec(self.decider, self.decider.input)
        if (tokens.dtype, (sampling.frames, *tokens.shape[1:])) != (window.dtype, window.shape[1:]):
            raise PlanMismatch(f"the clip stage takes {window}, which is not {sampling.frames} x {tokens}")
        self._stream = stream = self.encoder.engine.stream
        self._using = threading.Lock()  # frames are borrowed by the threads that capture them
        with stream.current():
            self._encoding = _Batches(self.encoder, stream, self.max_batch)
            self._deciding = _Batches(self.decider, stream, self.max_batch)
            self._images = _Pinned(stream, self._encoding.input)
            self._answers = [_Pinned(stream, one) for one in self._deciding.outputs]
            self._token_bytes = self._encoding.outputs[0].size_bytes
            self._row_bytes = 2 * sampling.frames * self._token_bytes  # of one phase
            self._rings = _Rings(stream, sampling.phases * self._row_bytes)
            self._producer, self._started, self._encoded, self._decided = (stream.event() for _ in range(4))
        self._queued: list[tuple[str, Any, Any]] = []  # stages whose times are not read yet, from one event to another

    def borrow(self, image: Any) -> GpuFrame:
        with self._using:
            self._check_open()
            with self._stream.current():
                if names_no_stream(image):
                    self._stream.wait_for_default(self._producer)
                frame = view_gpu_frame(image, self._stream.handle, self._stream.device)
        wanted = self._encoding.input
        if (frame.shape, frame.dtype) != (wanted.shape[1:], wanted.dtype):
            raise ShapeError(
                f"a frame on the GPU must have the model's size, {wanted.shape[1:]} uint8 BGR, got {frame.shape} "
                f"{frame.dtype}; resize it there, or give the camera's frame as a NumPy array"
            )
        return frame

    def step(self, due: Sequence[DueFrame]) -> list[np.ndarray | None]:
        with self._using:
            self._check_open()
            with self._stream.current():
                self._wait()  # the images of the step before may still be on their way
                try:
                    return self._step(due)
                except BaseException:
                    # The caller's frames and the staged ones are free again, whatever was queued.
                    self._queued.clear()
                    self._stream.settle()
                    raise

    def forget(self, stream: Stream) -> None:
        with self._using:  # what is queued still uses the ring, but before anything that another stream queues
            self._rings.release(stream)

    def _step(self, due: Sequence[DueFrame]) -> list[np.ndarray | None]:
        entries = [self._place(frame) for frame in due]
        full = [number for number, frame in enumerate(due) if frame.stream.ring.full]
        # New sizes are made ready before anything is timed.
        encoding, deciding = self._encoding.parts(len(due)), self._deciding.parts(len(full))
        self._stream.mark(self._started)
        self._encode(due, entries, encoding)
        self._mark(self.encoder, self._started, self._encoded)
        decisions: list[np.ndarray | None] = [None] * len(due)
        if full:
            for number, answer in zip(full, self._decide([due[number].stream for number in full], deciding)):
                decisions[number] = answer
        elif any(isinstance(frame.image, GpuFrame) for frame in due):
            self._wait()  # whoever lent it may overwrite it now
        return decisions

    def _place(self, frame: DueFrame) -> list[int]:
        """Notes a frame in its stream's ring. Returns pointers to where its tokens go."""
        ring, memory, size_bytes = frame.stream.ring, self._rings.of(frame.stream), self._token_bytes
        entries = []
        for instant in range(frame.slot.first, frame.slot.last + 1):
            phase, places = ring.place(instant, frame.t_s)
            row = memory + phase * self._row_bytes
            entries += [row + place * size_bytes for place in places]
        return entries

    def _encode(self, due: Sequence[DueFrame], entries: Sequence[list[int]], parts: Sequence[_Part]) -> None:
        copy, size_bytes, staged = self._stream.copy, self._token_bytes, self._images.rows(len(due))
        for run, start, end in parts:
            self._upload(due[start:end], run.input.pointer, staged[start:end])
            run.enqueue()
            tokens = run.outputs[0].pointer
            for pointers in entries[start:end]:
                for pointer in pointers:
                    copy(pointer, tokens, size_bytes)
                tokens += size_bytes

    def _upload(self, due: Sequence[DueFrame], target: int, staged: np.ndarray) -> None:
        """All frames of the computer's memory at once; those that are on the GPU then go between them."""
        borrowed = []
        for row, frame in enumerate(due):
            if isinstance(frame.image, GpuFrame):
                borrowed.append((row, frame.image))
            else:
                np.copyto(staged[row], frame.image)
        if len(borrowed) < len(due):
            self._stream.upload(target, staged)
        size_bytes = self._encoding.input.size_bytes
        for row, image in borrowed:
            self._stream.copy(target + row * size_bytes, image.pointer, size_bytes)

    def _decide(self, streams: Sequence[Stream], parts: Sequence[_Part]) -> np.ndarray:
        """The newest windows of streams -> answers (n, C). Waits for them."""
        staged = [answers.rows(len(streams)) for answers in self._answers]
        size_bytes = self.sampling.frames * self._token_bytes
        for run, start, end in parts:
            target = run.input.pointer
            for stream in streams[start:end]:
                phase, first, _, _ = stream.ring.newest()
                window = self._rings.of(stream) + phase * self._row_bytes + first * self._token_bytes
                # Into a place of its own rather than read from the ring: a graph has its addresses for good.
                self._stream.copy(target, window, size_bytes)
                target += size_bytes
            run.enqueue()
            for rows, output in zip(staged, run.outputs):
                self._stream.download(rows[start:end], output.pointer)
        self._mark(self.decider, self._encoded, self._decided)
        self._wait()
        return staged[0].copy() if len(staged) == 1 else np.concatenate(staged, axis=1)

    def _mark(self, stage: StageRunner, start: Any, end: Any) -> None:
        """The stage has been queued, from one event to the other."""
        self._stream.mark(end)
        self._queued.append((stage.timed_as, start, end))

    def _wait(self) -> None:
        """Until everything queued is done. Notes how long it took."""
        if self._queued:
            queued, self._queued = self._queued, []
            self._stream.synchronize()
            for stage, start, end in queued:
                self.stats.add_ms(stage, self._stream.elapsed_ms(start, end))

    def _check_open(self) -> None:
        for stage in (self.encoder, self.decider):
            stage.engine.check_open()


class _Run(NamedTuple):
    """A stage made ready for one batch size. input: the main one. outputs: those that are wanted."""

    batch: int
    enqueue: Callable[[], None]
    input: GpuTensor
    outputs: tuple[GpuTensor, ...]


class _Part(NamedTuple):
    """Items ``start`` to ``end`` of a batch, and what runs them."""

    run: _Run
    start: int
    end: int


class _Batches:
    """A stage for batches of any size: contexts and graphs for 1, 2, 4, ... and the engine's largest, made when needed.

    A batch runs in the next larger one; what is left over there holds whatever was there before, and what is computed
    from it is never read. That is simpler than a sum of smaller ones: a stage is one copy in, one launch and one copy
    out, whatever the batch.
    input, outputs: of batch 1. largest: batch; more items run one after the other, in parts of it.
    """

    def __init__(self, stage: StageRunner, stream: cuda.Stream, largest: int):
        self._stage, self._stream = stage, stream
        largest = min(largest, stage.engine.max_batch or 1)
        self._sizes = [*(1 << power for power in range((largest - 1).bit_length())), largest]
        self._runs = {1: self._prepare(1)}
        self._parts: dict[int, list[_Part]] = {}  # by the number of items
        self.input, self.outputs = self._runs[1].input, self._runs[1].outputs

    def parts(self, count: int) -> list[_Part]:
        """What runs so many items, in order. Call inside ``stream.current()``."""
        parts = self._parts.get(count)
        if parts is None:
            parts, start = [], 0
            while start < count:
                run = self._run_for(count - start)
                parts.append(_Part(run, start, min(count, start + run.batch)))
                start += run.batch
            self._parts[count] = parts
        return parts

    def _run_for(self, count: int) -> _Run:
        """The smallest run that takes so many, or the largest there is."""
        batch = next((size for size in self._sizes if size >= count), self._sizes[-1])
        if batch not in self._runs:
            try:
                self._runs[batch] = self._prepare(batch)
            except VlfError as error:
                # Mostly it is memory that lacks, and the streams that run already are worth more than this size.
                self._sizes.remove(batch)
                backend = self._stage.engine.backend
                log.warning("%s runs no batches of %d, but of other sizes: %s", backend, batch, str(error))
                return self._run_for(count)
        return self._runs[batch]

    def _prepare(self, batch: int) -> _Run:
        run = self._stage.engine.fixed_run(batch, self._stream)
        outputs = tuple(run.outputs[name] for name in self._stage.outputs)
        return _Run(batch, run.enqueue, run.inputs[self._stage.input], outputs)


class _Pinned:
    """Page-locked memory for as many items as were ever needed at once. one: the tensor of one item."""

    def __init__(self, stream: cuda.Stream, one: GpuTensor):
        self._stream, self._one = stream, one
        self._rows = self._allocate(1)

    def rows(self, count: int) -> np.ndarray:
        """(count, ...), the same memory every time: nothing may be queued that still uses it."""
        if count > len(self._rows):
            self._rows = self._allocate(1 << (count - 1).bit_length())
        return self._rows[:count]

    def _allocate(self, count: int) -> np.ndarray:
        memory = self._stream.allocate_pinned(count * self._one.size_bytes)
        return memory.view(self._one.dtype).reshape(count, *self._one.shape[1:])


class _Rings:
    """Device memory for the ring of each stream, of one size. What one stream gives back is the next one's."""

    def __init__(self, stream: cuda.Stream, size_bytes: int):
        self._stream, self._size_bytes = stream, size_bytes
        self._of: dict[Stream, int] = {}
        self._free: list[int] = []
        self._allocate(1)

    def of(self, owner: Stream) -> int:
        """Pointer to a stream's memory. Call inside ``stream.current()``. Raises VlfError if there is no more."""
        pointer = self._of.get(owner)
        if pointer is None:
            if not self._free:
                self._allocate(min(len(self._of), _MOST_RINGS_AT_ONCE))
            pointer = self._of[owner] = self._free.pop()
        return pointer

    def release(self, owner: Stream) -> None:
        """Takes the memory back; nothing happens if the stream has none."""
        pointer = self._of.pop(owner, None)
        if pointer is not None:
            self._free.append(pointer)

    def _allocate(self, count: int) -> None:
        first = self._stream.allocate(count * self._size_bytes)
        self._free += [first + number * self._size_bytes for number in range(count)]


def _spec(stage: StageRunner, name: str) -> Any:
    return next(spec for spec in (*stage.engine.inputs, *stage.engine.outputs) if spec.name == name)
