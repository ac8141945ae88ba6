"""Where decisions go. A sink runs on the caller's thread, and errors are the caller's; a ThreadedSink has its own."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ..atomic import Replacement, check_replaceable
from ..errors import SourceError
from ..opencv import load_cv2
from ..printable import printable
from ..types import Event, Frame, Prediction
from ..video.sources import DEFAULT_FPS, IMAGE_SUFFIXES, Source

RANDOM_WEIGHTS_NOTE = "[random weights: labels mean nothing]"


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


class PrintSink(Sink):
    """One line per prediction, for people."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        if prediction is not None:
            print(describe(prediction), file=self._stream, flush=True)


class JsonLinesSink(Sink):
    """One JSON object per prediction and line, for programs: see ``to_json``."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        if prediction is not None:
            print(json.dumps(to_json(prediction)), file=self._stream, flush=True)


class VideoWriter:
    """A video file that images (H, W, 3) uint8 BGR, all of one size, are written to.

    It lies beside ``path`` while it grows, and takes its place when it is closed. The codec follows the ending: .avi
    Motion JPEG, anything else MPEG-4. Raises SourceError if OpenCV cannot write it, or if something is at ``path`` that
    is no file.
    """

    def __init__(self, path: str | Path, fps: float):
        self._cv2 = load_cv2()
        self._path, self._fps = Path(path), fps
        self._writer: Any = None
        self._written = 0
        if not self._path.parent.is_dir():
            raise SourceError(f"cannot write {path}: there is no folder {self._path.parent}")
        if self._path.suffix.lower() in IMAGE_SUFFIXES:
            raise SourceError(f"cannot write {path}: it is to be a video; name an .mp4 or .avi file")
        self._checked(check_replaceable, self._path)

    def write(self, image: np.ndarray) -> None:
        """Appends an image."""
        if self._writer is None:
            self._shape, self._writer = image.shape, self._open(image)
        if image.shape != self._shape:
            raise SourceError(f"{self._path}: a frame has the shape {image.shape}, the first one had {self._shape}")
        self._writer.write(image)
        self._written += 1

    def close(self) -> None:
        """Finishes the file and puts it in its place; idempotent.

        Raises SourceError if frames are missing from it, as when the disk is full: it is then thrown away.
        """
        if self._writer is None:
            return
        try:
            self._release()
            # OpenCV reports no failed write: the file itself has to be asked.
            capture = self._cv2.VideoCapture(str(self._new.partial))
            kept = max(0, int(capture.get(self._cv2.CAP_PROP_FRAME_COUNT)))
            capture.release()
            if kept < self._written:
                raise SourceError(
                    f"cannot write {self._path}: only {kept} of its {self._written} frames were kept; is the disk full?"
                )
            self._checked(self._new.commit)
        finally:
            self._new.discard()

    def discard(self) -> None:
        """Throws away what was written so far; without effect once closed."""
        if self._writer is not None:
            self._release()
            self._new.discard()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info) -> None:
        self.close() if kind is None else self.discard()

    def _release(self) -> None:
        self._writer.release()
        self._writer = None

    def _checked(self, do: Callable[..., Any], *args: Any) -> Any:
        try:
            return do(*args)
        except OSError as error:
            raise SourceError(f"cannot write {self._path}: {error.strerror}") from None

    def _open(self, image: np.ndarray) -> Any:
        code = "MJPG" if self._path.suffix.lower() == ".avi" else "mp4v"
        size = (image.shape[1], image.shape[0])
        self._new = self._checked(Replacement, self._path)
        writer = self._cv2.VideoWriter(str(self._new.partial), self._cv2.VideoWriter_fourcc(*code), self._fps, size)
        if not writer.isOpened():
            self._new.discard()
            raise SourceError(
                f"OpenCV cannot write {code} video to {self._path}: no right to, or an ending it does not know "
                "(.avi and .mp4 it does)"
            )
        return writer


class VideoSink(Sink):
    """Every frame that reached the recogniser, with the latest decision on it, as a video (class VideoWriter).

    source: gives the frame rate; its own files are never written to. stream: only that stream's frames (None: all).
    """

    every_frame = True

    def __init__(self, path: str | Path, source: Source, stream: str | None = None):
        self._stream = stream
        for read in source.paths:
            if Path(path).exists() and Path(path).samefile(read):
                raise SourceError(f"cannot save to {path}: it is what {source.name} is read from; give another name")
        self._writer = VideoWriter(path, source.fps or DEFAULT_FPS)
        self._latest: Prediction | None = None

    def write(self, frame: Frame | None, prediction: Prediction | None) -> None:
        if frame is None or self._stream not in (None, frame.stream):
            return
        self._latest = prediction or self._latest
        self._writer.write(annotate(frame.image, self._latest))

    def close(self) -> None:
        self._writer.close()


def describe(prediction: Prediction) -> str:
    """A prediction as one line of text."""
    words = [] if prediction.stream == "main" else [f"{prediction.stream:12s}"]
    words += [f"{prediction.t_end_s:9.2f} s", f"{prediction.state:8s}"]
    if prediction.label is not None:
        words += [f"{printable(prediction.label):24s} {prediction.score:6.1%}"]
    words += [f"{prediction.age_ms:7.1f} ms old"]
    if prediction.dropped:
        words += [f"{prediction.dropped} dropped"]
    if prediction.random_weights and prediction.label is not None:
        words += [RANDOM_WEIGHTS_NOTE]
    return "  ".join(words)


def to_json(prediction: Prediction) -> dict[str, Any]:
    """A prediction as plain JSON values, under the names of Prediction's fields; scores and logits are left out."""
    return {
        "stream": prediction.stream,
        "state": prediction.state,
        "label": prediction.label,
        "score": None if prediction.score is None else round(prediction.score, 6),
        "topk": [[label, round(score, 6)] for label, score in prediction.topk],
        "t_start_s": round(prediction.t_start_s, 6),
        "t_end_s": round(prediction.t_end_s, 6),
        "age_ms": round(prediction.age_ms, 3),
        "seq": prediction.seq,
        "dropped": prediction.dropped,
        "random_weights": prediction.random_weights,
    }


def annotate(image: np.ndarray, prediction: Prediction | None) -> np.ndarray:
    """A copy of the image (H, W, 3) uint8 BGR with the decision written along its lower edge."""
    cv2 = load_cv2()
    shown = image.copy()
    if prediction is None:
        return shown
    height, width = image.shape[:2]
    scale = max(0.4, min(height, width) / 600)
    bar = round(44 * scale)
    shown[height - bar :] = shown[height - bar :] // 3
    text, colour = prediction.state, (0, 200, 255)
    if prediction.label is not None:
        text, colour = f"{printable(prediction.label)}  {prediction.score:.0%}", (255, 255, 255)
        reach = round((width - 1) * prediction.score)
        cv2.rectangle(shown, (0, height - bar), (reach, height - bar + max(1, round(4 * scale))), (90, 220, 90), -1)
        if prediction.random_weights:
            text += "  (random weights)"
    origin = (round(12 * scale), height - round(13 * scale))
    thick = max(1, round(1.6 * scale))
    cv2.putText(shown, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale * 0.8, colour, thick, cv2.LINE_AA)
    return shown
