"""Recognizer: push one frame, perhaps get one decision. Plain single-threaded code; threads are pipeline.py's."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..backends.engine import Engine
from ..backends.gpu_frame import GpuFrame, is_gpu_frame
from ..errors import PlanMismatch, ShapeError, VlfError
from ..manifest import Manifest
from ..types import Prediction, Sampling
from ..video.preprocess import Preprocessor, check_image
from ..video.sampler import Sampler, Tick, segment_centres
from .stats import Stats
from .streaming import open_streaming

log = logging.getLogger(__name__)
_SLOW_CAMERA_GAPS = 3


class Recognizer:
    """Runs the two stages of a plan over a stream, each frame encoded once.

    engines: {"frame": image (N, H, W, 3) uint8 -> tokens (N, S, D), "clip": tokens (N, K, S, D) -> logits (N, C)};
    they stay the caller's to close. sampling: the plan's own unless given.
    """

    def __init__(
        self, manifest: Manifest, engines: Mapping[str, Engine], *, sampling: Sampling | None = None, topk: int = 5
    ):
        if set(manifest.stages) != {"frame", "clip"}:
            raise PlanMismatch(
                f"this plan has the stages {', '.join(manifest.stages)}; this version of vlf_edge runs: frame, clip"
            )
        self.manifest = manifest
        self.sampling = sampling or manifest.sampling
        self.stats = Stats()
        if topk < 1:
            raise VlfError(f"topk is {topk}, expected 1 or more")
        self._topk = min(topk, len(manifest.labels))
        self._frame, self._clip = engines["frame"], engines["clip"]
        classes = self._clip.outputs[0].shape[-1]
        if classes != len(manifest.labels):
            raise PlanMismatch(f"this plan names {len(manifest.labels)} labels, but its model has {classes} classes")
        self._image_name, self._tokens_name = self._frame.inputs[0].name, self._frame.outputs[0].name
        self._window_name, self._logits_name = self._clip.inputs[0].name, self._clip.outputs[0].name
        self._preprocess = Preprocessor(manifest.preprocess)
        self._sampler = Sampler(self.sampling)
        self._streaming = open_streaming(engines, self.sampling, self.stats)
        self._seq = 0
        self._gaps_in_a_row = 0

    def reset(self) -> None:
        """Forgets the stream: the next frame begins a new window. Counts stay."""
        self._sampler.reset()
        self._streaming.ring.reset()
        self._seq = self._gaps_in_a_row = 0

    def push(
        self,
        image: Any,
        t_s: float | None = None,
        *,
        seq: int | None = None,
        captured_s: float | None = None,
        dropped: int = 0,
    ) -> Prediction | None:
        """One frame in, a prediction out if this frame is on the sampling grid, else None.

        image: (H, W, 3) uint8 BGR; or, where the plan runs on a GPU, a contiguous frame on that GPU (PyTorch, CuPy,
        PyCUDA, DLPack), which must have the model's size already, since nothing resizes it.
        t_s: when it was taken, seconds on any steady clock (default: now).
        seq, captured_s, dropped: the frame's number, its arrival (time.monotonic) and the frames lost before it.
        """
        started_s = time.perf_counter()
        borrowed = self._streaming.borrow(image) if is_gpu_frame(image) else None
        if borrowed is None:
            check_image(image)
        captured_s = time.monotonic() if captured_s is None else captured_s
        t_s = captured_s if t_s is None else float(t_s)
        if not math.isfinite(t_s):
            raise ShapeError(f"a frame's time is {t_s}; expected seconds on a steady clock")
        seq = self._seq if seq is None else seq
        self._seq = seq + 1
        self.stats.counts["captured"] += 1
        tick = self._sampler.accept(t_s)
        if tick is None:
            self.stats.counts["off_grid"] += 1
            return None
        if tick.gap:
            self._note_gap()
        self._remember(tick, image if borrowed is None else borrowed, t_s)
        if not self._streaming.ring.full:
            return Prediction(
                state="gap" if tick.gap else "warming",
                t_start_s=t_s,
                t_end_s=t_s,
                seq=seq,
                age_ms=_age_ms(captured_s),
                dropped=dropped,
                random_weights=self.manifest.random_weights,
            )
        self._gaps_in_a_row = 0
        logits, t_start_s = self._streaming.decide()
        decision = self._decision(logits, t_start_s, t_s, seq, captured_s, dropped)
        self.stats.counts["decisions"] += 1
        self.stats.labels[decision.label] += 1
        self.stats.add_ms("decision", (time.perf_counter() - started_s) * 1e3)
        return decision

    def classify(self, images: Sequence[np.ndarray] | np.ndarray, times_s: Iterable[float] | None = None) -> Prediction:
        """One decision over a whole clip, independent of any stream.

        images: n >= 1 of (H, W, 3) uint8 BGR; the middle frame of each of K equal segments is used, so that exactly
        K images are all used, in order. times_s: their instants in seconds (default: 0, 1, 2, ...).
        """
        captured_s = time.monotonic()
        if len(images) == 0:
            raise ShapeError("classify got no frames; it needs at least one (H, W, 3) uint8 image")
        times_s = list(range(len(images))) if times_s is None else list(times_s)
        if len(times_s) != len(images):
            raise ShapeError(f"classify got {len(images)} images but {len(times_s)} times")
        chosen = segment_centres(len(images), self.sampling.frames)
        unique = sorted(set(chosen))
        tokens = self._encode(np.stack([self._preprocessed(images[i]) for i in unique]))
        window = tokens[[unique.index(i) for i in chosen]][np.newaxis]
        self.stats.counts["clips"] += 1
        first_s, last_s = float(times_s[chosen[0]]), float(times_s[chosen[-1]])
        with self.stats.timed("clip_stage"):
            logits = self._clip.infer({self._window_name: window})[self._logits_name][0]
        return self._decision(logits, first_s, last_s, chosen[-1], captured_s)

    def _remember(self, tick: Tick, image: np.ndarray | GpuFrame, t_s: float) -> None:
        """Encodes a frame and puts its tokens into the ring, once for each instant it serves."""
        try:
            prepared = image if isinstance(image, GpuFrame) else self._preprocessed(image)
            self._streaming.remember(prepared, range(tick.first, tick.last + 1), t_s)
        except BaseException:
            # The grid has moved past this frame but the ring has not: only a new window is safe now.
            self.reset()
            self.stats.counts["failed"] += 1
            raise
        self.stats.counts["encoded"] += 1

    def _preprocessed(self, image: np.ndarray) -> np.ndarray:
        with self.stats.timed("preprocess"):
            return self._preprocess(image)

    def _encode(self, images: np.ndarray) -> np.ndarray:
        """(n, H, W, 3) uint8 -> tokens (n, S, D), in batches as large as the engine takes."""
        largest = (self._frame.max_batch or len(images)) if self._frame.dynamic_batch else 1
        parts = []
        for start in range(0, len(images), largest):
            with self.stats.timed("frame_stage"):
                batch = {self._image_name: images[start : start + largest]}
                parts.append(self._frame.infer(batch)[self._tokens_name])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _decision(
        self, logits: np.ndarray, t_start_s: float, t_end_s: float, seq: int, captured_s: float, dropped: int = 0
    ) -> Prediction:
        """Logits (C,) and what is known of their frames -> the decision."""
        scores = _softmax(logits)
        best = np.argsort(-scores, kind="stable")[: self._topk]
        topk = tuple((self.manifest.labels[i], float(scores[i])) for i in best)
        return Prediction(
            state="ok",
            t_start_s=t_start_s,
            t_end_s=t_end_s,
            seq=seq,
            age_ms=_age_ms(captured_s),
            label=topk[0][0],
            score=topk[0][1],
            scores=scores,
            logits=logits.astype(np.float32),
            topk=topk,
            dropped=dropped,
            random_weights=self.manifest.random_weights,
        )

    def _note_gap(self) -> None:
        self._streaming.ring.reset()
        self.stats.counts["gaps"] += 1
        self._gaps_in_a_row += 1
        if self._gaps_in_a_row == _SLOW_CAMERA_GAPS:
            log.warning(
                "%d gaps without a full window between them: frames come too seldom for this plan, which needs one at "
                "least every %.3f s; use a faster camera, a faster machine or a plan with a longer span",
                _SLOW_CAMERA_GAPS,
                self.sampling.step_s / 2,
            )


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits.astype(np.float64) - logits.max())
    return (exponents / exponents.sum()).astype(np.float32)


def _age_ms(captured_s: float) -> float:
    return (time.monotonic() - captured_s) * 1e3
