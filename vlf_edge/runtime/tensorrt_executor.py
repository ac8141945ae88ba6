"""A stream with everything between image and logits on the GPU: ring included, one wait for a decision.

    image -> upload -> frame stage -> ring -> window -> clip stage -> logits -> download

All of it is queued on one stream, in this order; the computer waits once, for the logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backends.gpu_frame import GpuFrame, names_no_stream, view_gpu_frame
from ..backends.tensorrt import TensorRTEngine
from ..errors import PlanMismatch, ShapeError
from ..types import Sampling
from .executor import Executor
from .ring import Ring
from .stats import Stats


class TensorRTExecutor(Executor):
    """Two TensorRT engines on one GPU. All memory is allocated here, once; it goes with the engines.

    Raises PlanMismatch if the clip stage does not take what the frame stage gives.
    """

    def __init__(self, frame: TensorRTEngine, clip: TensorRTEngine, sampling: Sampling, stats: Stats):
        super().__init__(sampling, stats)
        self.ring = Ring(sampling)
        tokens, window = frame.outputs[0], clip.inputs[0]
        if (tokens.dtype, (sampling.frames, *tokens.shape[1:])) != (window.dtype, window.shape[1:]):
            raise PlanMismatch(f"the clip stage takes {window}, which is not {sampling.frames} x {tokens}")
        self._engines, self._stream = (frame, clip), frame.stream
        stream = self._stream
        with stream.current():
            self._frame, self._clip = frame.single_run(stream), clip.single_run(stream)
            (self._image,) = self._frame.inputs.values()
            (self._tokens,) = self._frame.outputs.values()
            (self._window,) = self._clip.inputs.values()
            (self._logits,) = self._clip.outputs.values()
            self._staged_image = stream.allocate_pinned(self._image.size_bytes).reshape(self._image.shape[1:])
            staged = stream.allocate_pinned(self._logits.size_bytes)
            self._staged_logits = staged.view(self._logits.dtype).reshape(self._logits.shape)
            self._features = stream.allocate(sampling.phases * 2 * sampling.frames * self._tokens.size_bytes)
            self._producer = stream.event()
            self._events = {stage: (stream.event(), stream.event()) for stage in ("frame_stage", "clip_stage")}
        self._queued: list[str] = []  # stages whose times are not read yet
        self._borrowed: list[GpuFrame] = []  # the caller's frames that the GPU may still be reading

    def borrow(self, image: Any) -> GpuFrame:
        self._check_open()
        with self._stream.current():
            if self._borrowed:
                self._wait()  # whoever pushes the next frame may overwrite the last
            if names_no_stream(image):
                self._stream.wait_for_default(self._producer)
            frame = view_gpu_frame(image, self._stream.handle, self._stream.device)
        shape = self._image.shape[1:]
        if (frame.shape, frame.dtype) != (shape, self._image.dtype):
            raise ShapeError(
                f"a frame on the GPU must have the model's size, {shape} uint8 BGR, got {frame.shape} {frame.dtype}; "
                "resize it there, or give the camera's frame as a NumPy array"
            )
        return frame

    def remember(self, image: np.ndarray | GpuFrame, instants: range, t_s: float) -> None:
        self._check_open()
        stream = self._stream
        with stream.current():
            if self._queued:
                self._wait()  # the staged image may still be on its way
            start, end = self._events["frame_stage"]
            stream.mark(start)
            self._upload(image)
            self._frame.enqueue()
            for instant in instants:
                phase, places = self.ring.place(instant, t_s)
                for place in places:
                    stream.copy(self._feature(phase, place), self._tokens.pointer, self._tokens.size_bytes)
            stream.mark(end)
            self._queued.append("frame_stage")

    def decide(self) -> tuple[np.ndarray, float]:
        self._check_open()
        window, stream = self.ring.newest(), self._stream
        with stream.current():
            start, end = self._events["clip_stage"]
            stream.mark(start)
            # Into a place of its own rather than read from the ring: a graph has its addresses for good.
            stream.copy(self._window.pointer, self._feature(window.phase, window.first), self._window.size_bytes)
            self._clip.enqueue()
            stream.download(self._staged_logits, self._logits.pointer)
            stream.mark(end)
            self._queued.append("clip_stage")
            self._wait()
        return self._staged_logits[0].copy(), window.t_start_s

    def _upload(self, image: np.ndarray | GpuFrame) -> None:
        if isinstance(image, GpuFrame):
            self._borrowed.append(image)
            self._stream.copy(self._image.pointer, image.pointer, self._image.size_bytes)
        else:
            np.copyto(self._staged_image, image)
            self._stream.upload(self._image.pointer, self._staged_image)

    def _check_open(self) -> None:
        for engine in self._engines:
            engine.check_open()

    def _feature(self, phase: int, place: int) -> int:
        """Pointer to the tokens at a place of the ring."""
        return self._features + (phase * 2 * self.sampling.frames + place) * self._tokens.size_bytes

    def _wait(self) -> None:
        """Until everything queued is done. Notes how long it took and gives the caller's frames back."""
        queued, self._queued = self._queued, []
        try:
            self._stream.synchronize()
        finally:
            self._borrowed.clear()
        for stage in queued:
            self.stats.add_ms(stage, self._stream.elapsed_ms(*self._events[stage]))
