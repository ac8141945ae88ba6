"""Two stages with everything between images and logits on the GPU, rings included: one wait for a step's decisions.

    images -> upload -> frame stage -> rings of the streams -> windows -> clip stage -> logits -> download

All of it is queued on one CUDA stream, in this order; the computer waits once, for the logits.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..backends import cuda
from ..backends.gpu_frame import GpuFrame, names_no_stream, view_gpu_frame
from ..backends.tensorrt import FixedRun, GpuTensor, TensorRTEngine
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
        self, stages: Sequence[StageRoles], engines: Mapping[str, TensorRTEngine], sampling: Sampling, stats: Stats
    ):
        super().__init__(stages, engines, sampling, stats)
        tokens, window = _spec(self.encoder, self.encoder.output), _spec(self.decider, self.decider.input)
        if (tokens.dtype, (sampling.frames, *tokens.shape[1:])) != (window.dtype, window.shape[1:]):
            raise PlanMismatch(f"the clip stage takes {window}, which is not {sampling.frames} x {tokens}")
        self._stream = stream = self.encoder.engine.stream
        self._using = threading.Lock()  # frames are borrowed by the threads that capture them
        with stream.current():
            self._encoding = _Batches(self.encoder, stream, self.max_batch)
            self._deciding = _Batches(self.decider, stream, self.max_batch)
            self._images = _Pinned(stream, self._encoding.input)
            self._logits = _Pinned(stream, self._deciding.output)
            self._token_bytes = self._encoding.output.size_bytes
            self._rings = _Rings(stream, sampling.phases * 2 * sampling.frames * self._token_bytes)
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
        placed = [self._place(frame) for frame in due]
        windows = [entry.window for entry in placed if entry.window is not None]
        # New sizes are made ready before anything is timed.
        encoding, deciding = self._encoding.parts(len(due)), self._deciding.parts(len(windows))
        self._stream.mark(self._started)
        self._encode(due, placed, encoding)
        self._mark(self.encoder, self._started, self._encoded)
        if windows:
            logits = iter(self._decide(windows, deciding))
        elif any(isinstance(frame.image, GpuFrame) for frame in due):
            self._wait()  # whoever lent it may overwrite it now
        return [None if entry.window is None else next(logits) for entry in placed]

    def _place(self, frame: DueFrame) -> _Placed:
        """Notes a frame in its stream's ring."""
        ring, memory = frame.stream.ring, self._rings.of(frame.stream)

        def pointer(phase: int, place: int) -> int:
            return memory + (phase * 2 * self.sampling.frames + place) * self._token_bytes

        entries = []
        for instant in range(frame.slot.first, frame.slot.last + 1):
            phase, places = ring.place(instant, frame.t_s)
            entries += [pointer(phase, place) for place in places]
        newest = ring.newest() if ring.full else None
        return _Placed(entries, None if newest is None else pointer(newest.phase, newest.first))

    def _encode(self, due: Sequence[DueFrame], placed: Sequence[_Placed], parts: Sequence[_Part]) -> None:
        staged = self._images.rows(len(due))
        for run, start, end in parts:
            self._upload(due[start:end], self._encoding.input_of(run), staged[start:end])
            run.enqueue()
            tokens = self._encoding.output_of(run)
            for row, entry in enumerate(placed[start:end]):
                for pointer in entry.entries:
                    self._stream.copy(pointer, tokens.pointer + row * self._token_bytes, self._token_bytes)

    def _upload(self, due: Sequence[DueFrame], target: GpuTensor, staged: np.ndarray) -> None:
        """All frames of the computer's memory at once; those that are on the GPU then go between them."""
        borrowed = {row: frame.image for row, frame in enumerate(due) if isinstance(frame.image, GpuFrame)}
        if len(borrowed) < len(due):
            for row, frame in enumerate(due):
                if row not in borrowed:
                    np.copyto(staged[row], frame.image)
            self._stream.upload(target.pointer, staged)
        size_bytes = target.size_bytes // target.shape[0]
        for row, image in borrowed.items():
            self._stream.copy(target.pointer + row * size_bytes, image.pointer, size_bytes)

    def _decide(self, windows: Sequence[int], parts: Sequence[_Part]) -> np.ndarray:
        """Pointers to windows -> logits (n, C). Waits for them."""
        staged, size_bytes = self._logits.rows(len(windows)), self.sampling.frames * self._token_bytes
        for run, start, end in parts:
            target = self._deciding.input_of(run).pointer
            for row, window in enumerate(windows[start:end]):
                # Into a place of its own rather than read from the ring: a graph has its addresses for good.
                self._stream.copy(target + row * size_bytes, window, size_bytes)
            run.enqueue()
            self._stream.download(staged[start:end], self._deciding.output_of(run).pointer)
        self._mark(self.decider, self._encoded, self._decided)
        self._wait()
        return staged.copy()

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


class _Placed(NamedTuple):
    """Where a frame's tokens go, and the window that they complete, if they do: pointers on the GPU."""

    entries: list[int]
    window: int | None


class _Part(NamedTuple):
    """Items ``start`` to ``end`` of a batch, and what runs them."""

    run: FixedRun
    start: int
    end: int


class _Batches:
    """A stage for batches of any size: contexts and graphs for 1, 2, 4, ... and the engine's largest, made when needed.

    A batch runs in the next larger one; what is left over there holds whatever was there before, and what is computed
    from it is never read. That is simpler than a sum of smaller ones: a stage is one copy in, one launch and one copy
    out, whatever the batch.
    input, output: of batch 1. largest: batch; more items run one after the other, in parts of it.
    """

    def __init__(self, stage: StageRunner, stream: cuda.Stream, largest: int):
        self._stage, self._stream = stage, stream
        largest = min(largest, stage.engine.max_batch or 1)
        self._sizes = [*(1 << power for power in range((largest - 1).bit_length())), largest]
        self._runs: dict[int, FixedRun] = {1: stage.engine.fixed_run(1, stream)}
        self.input, self.output = self.input_of(self._runs[1]), self.output_of(self._runs[1])

    def parts(self, count: int) -> list[_Part]:
        """What runs so many items, in order. Call inside ``stream.current()``."""
        return list(self._parts(count))

    def input_of(self, run: FixedRun) -> GpuTensor:
        """The main input of the stage."""
        return run.inputs[self._stage.input]

    def output_of(self, run: FixedRun) -> GpuTensor:
        """The main output of the stage."""
        return run.outputs[self._stage.output]

    def _parts(self, count: int) -> Iterator[_Part]:
        start = 0
        while start < count:
            run = self._run_for(count - start)
            end = min(count, start + run.batch)
            yield _Part(run, start, end)
            start = end

    def _run_for(self, count: int) -> FixedRun:
        """The smallest run that takes so many, or the largest there is."""
        batch = next((size for size in self._sizes if size >= count), self._sizes[-1])
        if batch not in self._runs:
            engine = self._stage.engine
            try:
                self._runs[batch] = engine.fixed_run(batch, self._stream)
            except VlfError as error:
                # Mostly it is memory that lacks, and the streams that run already are worth more than this size.
                self._sizes.remove(batch)
                log.warning("%s runs no batches of %d, but of other sizes: %s", engine.backend, batch, str(error))
                return self._run_for(count)
        return self._runs[batch]


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
