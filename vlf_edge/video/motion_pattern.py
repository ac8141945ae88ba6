"""test://motion: rendered motion as a source of frames, for where there is no camera.

One clip of a given class, or clip after clip of all of them. ``vlf_edge.synthetic`` says what is seen.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from ..errors import SourceError
from ..synthetic import CLASSES, MotionClip

# Twice the span of a usual window: half of the windows then lie within one clip.
SEGMENT_S = 4.0
_STREAM_S, _CLIP_S = 20.0, 2.0


@dataclass(frozen=True)
class MotionOptions:
    """test://motion?seconds=20&fps=30&width=640&height=480&seed=0 (a stream of clips),
    test://motion?label=left&seconds=2&... (one clip)

    label: one of ``motion.CLASSES``, "" for all of them in a drawn order. seconds: 0 for the usual (20, or 2 with a
    label).
    """

    label: str = ""
    seconds: float = 0.0
    fps: float = 30.0
    width: int = 640
    height: int = 480
    seed: int = 0


def parse_motion_url(url: str) -> MotionOptions:
    """Reads the options of a test://motion URL. Raises SourceError naming the options there are."""
    known = {f.name: type(f.default) for f in fields(MotionOptions)}
    try:
        parts = urlsplit(url)
    except ValueError:  # an unclosed bracket
        parts = urlsplit("")
    if parts.netloc != "motion":
        raise SourceError(f"no test pattern {url!r}; available: test://motion?{'&'.join(f'{name}=' for name in known)}")
    options = MotionOptions()
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        try:
            options = replace(options, **{name: known[name](value)})
        except (KeyError, ValueError):
            raise SourceError(f"{url}: cannot use {name}={value}; options: {', '.join(known)}") from None
    if options.label and options.label not in CLASSES:
        raise SourceError(f"{url}: no class {options.label!r} of motion; available: {', '.join(CLASSES)}")
    if not options.seconds and "seconds" not in dict(parse_qsl(parts.query, keep_blank_values=True)):
        options = replace(options, seconds=_CLIP_S if options.label else _STREAM_S)
    sides_fit = 16 <= min(options.width, options.height) and max(options.width, options.height) <= 4096
    numbers_fit = 0 < options.fps <= 1000 and 0 < options.seconds <= 1e7 and 0 <= options.seed < 1 << 63
    if not (numbers_fit and sides_fit):
        raise SourceError(
            f"{url}: fps must be above 0 and up to 1000, seconds above 0, seed 0 or more, width and height between 16 "
            "and 4096"
        )
    return options


class MotionPattern:
    """The frames of a stream, at any instant: the same options and instant always give the same frame.

    count: of all frames that a source gives; frame i is seen at i / fps seconds.
    """

    def __init__(self, options: MotionOptions):
        self._options = options
        self._order = np.random.default_rng(options.seed).permutation(len(CLASSES))
        self.count = round(options.seconds * options.fps)
        self._segment = max(1, self.count) if options.label else max(2, round(SEGMENT_S * options.fps))
        self._clip: tuple[int, MotionClip] | None = None

    def label(self, t_s: float) -> str:
        """The class of what goes on at that instant."""
        return self._label(round(t_s * self._options.fps) // self._segment)

    def render(self, t_s: float) -> np.ndarray:
        """(height, width, 3) uint8 BGR: the frame nearest to that instant."""
        number, index = divmod(round(t_s * self._options.fps), self._segment)
        if self._clip is None or self._clip[0] != number:
            self._clip = (number, self._make_clip(number))
        return self._clip[1].render(index)

    def _label(self, number: int) -> str:
        return self._options.label or CLASSES[self._order[number % len(CLASSES)]]

    def _make_clip(self, number: int) -> MotionClip:
        options = self._options
        # A clip asked for by label is the one of that very seed.
        seed = options.seed if options.label else (options.seed * 1_000_003 + number) % (1 << 38)
        seconds = self._segment / options.fps
        return MotionClip(self._label(number), seed, options.width, options.height, options.fps, seconds)
