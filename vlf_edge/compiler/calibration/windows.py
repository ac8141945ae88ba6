"""Clips for calibration, taken exactly as the live runtime takes them: same sources, same sampler, same preprocessing.

A window that calibrates is a window the camera could have given. Windows overlap, as they do live, and every frame is
kept once. What INT8 costs is measured on frames it never saw: other clips of each class where labels are known, else
the end of each long clip, or every fourth of many short ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...batches import in_batches
from ...errors import CalibrationError
from ...types import Frame, Preprocess, Sampling
from ...video.preprocess import Preprocessor
from ...video.sampler import Sampler, segment_centres
from ...video.sources import hidden, open_source
from ..recipe import CLIPS_FIX, MIN_SAMPLES
from ..recurrent import OverWindows, as_function, states
from .clips import UNLABELLED, NamedClip, list_clips, spread

HELD_OUT_SHARE = 0.25
_EVERY = 4
MAX_HELD_OUT = 256
_HELD_OUT_BYTES = 128 << 20  # windows of large frames are fewer: each is run through every engine there is
_KEPT_BYTES = 256 << 20  # pixels kept from the first reading; what lies beyond is read twice

Progress = Callable[[int, int], None]


def _no_labels() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Clips:
    """Windows over unique frames.

    frames: (F, H, W, 3) uint8, preprocessed. windows: (n, K) int, indices into frames, oldest first; what calibrates.
    held_out: (m, K) int, windows that share no frame with those; may be empty. sources: names of the clips.
    labels, held_out_labels: (n,) and (m,) int, class of each window, -1 where it is not known.
    """

    frames: np.ndarray
    windows: np.ndarray
    held_out: np.ndarray
    sources: tuple[str, ...]
    labels: np.ndarray = field(default_factory=_no_labels)
    held_out_labels: np.ndarray = field(default_factory=_no_labels)

    @property
    def sha256(self) -> str:
        """Hash of what calibrates: frames and windows, not file names."""
        frames, windows = self.only(self.windows)
        digest = hashlib.sha256(repr((frames.shape[1:], windows.shape)).encode())
        digest.update(frames)
        digest.update(windows.astype("<i8").tobytes())
        return digest.hexdigest()

    def only(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The frames (f, H, W, 3) that these windows use, and the windows as indices into those."""
        used = np.unique(windows)
        return self.frames[used], np.searchsorted(used, windows)

    def coverage(self, labels: Sequence[str]) -> dict[str, list[int]]:
        """{class: [windows that calibrate, windows held out]} for every class; empty if no window has a label."""
        kinds = (self.labels, self.held_out_labels)
        if not any((kind != UNLABELLED).any() for kind in kinds):
            return {}
        return {label: [int((kind == i).sum()) for kind in kinds] for i, label in enumerate(labels)}


def stage_feeds(
    stage: str, graph: bytes, clips: Clips, portable: Mapping[str, bytes], batch: int = 8
) -> tuple[int, Iterator[dict[str, np.ndarray]]]:
    """(how many samples, batches of inputs) that calibrate a stage. graph: its fp32 graph.

    The frame stage sees the unique frames of the calibration windows; one that carries a state sees the windows, with
    the states that its fp32 graph leaves behind. The clip stage sees what the quantised frame stage,
    ``portable["frame"]``, makes of them, since that is what it will be given live; the only stage of a model sees the
    windows' images.
    """
    from ..graph import Session, tensor_specs

    frames, windows = clips.only(clips.windows)
    inputs, outputs = tensor_specs(graph)
    given = inputs[0].name
    if stage == "frame" and not states(inputs, outputs):
        return len(frames), ({given: frames[i : i + batch]} for i in range(0, len(frames), batch))

    def of_windows() -> Iterator[dict[str, np.ndarray]]:
        over = OverWindows(Session(graph).run, inputs, outputs)
        for i in range(0, len(windows), batch):
            yield from (feed for feed, _ in over.steps(frames[windows[i : i + batch]]))

    def of_tokens() -> Iterator[dict[str, np.ndarray]]:
        encode = as_function(Session(portable["frame"]).run, *tensor_specs(portable["frame"]))
        if isinstance(encode, OverWindows):
            for i in range(0, len(windows), batch):
                yield {given: encode(frames[windows[i : i + batch]])}
            return
        tokens = in_batches(encode, frames, batch)
        for i in range(0, len(windows), batch):
            yield {given: tokens[windows[i : i + batch]]}

    if stage == "frame":
        return windows.size, of_windows()
    if "frame" in portable:
        return len(windows), of_tokens()
    # A whole network and K images at a time: no more of them than of single images.
    at_once = max(1, batch // windows.shape[1])
    return len(windows), ({given: frames[windows[i : i + at_once]]} for i in range(0, len(windows), at_once))


@dataclass(frozen=True)
class _Window:
    clip: int
    frames: tuple[int, ...]


@dataclass(frozen=True)
class _Stretch:
    """Numbers of a clip's frames on the sampling grid, without a gap between them."""

    clip: int
    frames: list[int]


def collect_clips(
    what: Sequence[str | Path],
    sampling: Sampling,
    preprocess: Preprocess,
    *,
    samples: int = 64,
    labels: Sequence[str] = (),
    progress: Progress | None = None,
) -> Clips:
    """Reads clips and takes ``samples`` windows to calibrate on and up to 256 held-out ones, evenly of every class and
    spread over all clips.

    what: files, folders of videos, globs, annotation files, test://motion, "motion"; see ``list_clips``. labels: the
    model's class names; () leaves every clip without a label. progress: called with (clips read, clips in all).
    Raises CalibrationError for too few windows or frames that show nothing, SourceError for what cannot be read.
    """
    most = _most_held_out(sampling, preprocess)
    named = list_clips(what, labels, sampling, preprocess, calibrating=samples, held_out=most)
    if not named:
        raise CalibrationError(f"calibration needs real clips and got none; {CLIPS_FIX}")
    reader = _Reader(named, sampling, preprocess, progress)
    calibrating, held_out = _split(reader.stretches(), named, sampling.frames)
    if len(calibrating) < MIN_SAMPLES:
        raise CalibrationError(
            f"{len(named)} clip(s) give {len(calibrating)} windows of {sampling.frames} frames over "
            f"{sampling.span_s:g} s; calibration needs at least {MIN_SAMPLES}, better 64: {CLIPS_FIX}"
        )
    classes = [clip.label for clip in named]
    calibrating = spread(calibrating, [classes[w.clip] for w in calibrating], samples)
    held_out = spread(held_out, [classes[w.clip] for w in held_out], most)
    frames, places = reader.pixels({(w.clip, f) for w in calibrating + held_out for f in w.frames})
    held_out = _unseen(held_out, calibrating, {pair: frames[place].tobytes() for pair, place in places.items()})
    clips = Clips(
        frames=frames,
        windows=_indices(calibrating, places, sampling.frames),
        held_out=_indices(held_out, places, sampling.frames),
        sources=tuple(
            hidden(c.name) if "://" in c.name else Path(c.name).name for c in named if c.held_out is not True
        ),
        labels=np.array([classes[w.clip] for w in calibrating], np.int64),
        held_out_labels=np.array([classes[w.clip] for w in held_out], np.int64),
    )
    _check_content(clips)
    return clips


def _most_held_out(sampling: Sampling, preprocess: Preprocess) -> int:
    window_bytes = sampling.frames * preprocess.height_px * preprocess.width_px * 3
    return max(MIN_SAMPLES, min(MAX_HELD_OUT, _HELD_OUT_BYTES // window_bytes))


class _Reader:
    """Reads clips once for their time stamps, keeping pixels on the way, and again for those it could not keep."""

    def __init__(
        self, clips: Sequence[NamedClip], sampling: Sampling, preprocess: Preprocess, progress: Progress | None
    ):
        # One window an instant is the plan's own rate; interleaved phases would only repeat neighbours.
        self._clips, self._sampling = clips, replace(sampling, phases=1)
        self._prepare, self._progress = Preprocessor(preprocess), progress or (lambda done, total: None)
        self._kept: dict[tuple[int, int], np.ndarray] = {}
        self._room_bytes = _KEPT_BYTES

    def stretches(self) -> list[_Stretch]:
        """What each clip's frames on the sampling grid are, one stretch for each run without a gap."""
        found = []
        self._progress(0, len(self._clips))
        for index in range(len(self._clips)):
            found += self._stretches_of(index)
            self._progress(index + 1, len(self._clips))
        return found

    def _stretches_of(self, index: int) -> list[_Stretch]:
        sampler, stretches, numbers = Sampler(self._sampling), [], []
        for frame in self._frames(index):
            numbers.append(frame.seq)
            slot = sampler.accept(frame.t_s, begins=frame.begins)
            if slot is None:
                continue
            if slot.gap or not stretches:
                stretches.append(_Stretch(index, []))
            stretches[-1].frames.append(frame.seq)
            self._keep(index, frame)
        frames = self._sampling.frames
        too_short = numbers and all(len(stretch.frames) < frames for stretch in stretches)
        if too_short and self._clips[index].label != UNLABELLED:
            # An action shorter than a window is taken whole, as Runtime.classify does.
            return [_Stretch(index, [numbers[i] for i in segment_centres(len(numbers), frames)])]
        return stretches

    def _frames(self, index: int) -> Iterator[Frame]:
        """The frames of a clip, from its start to its end."""
        clip = self._clips[index]
        with open_source(clip.name) as source:
            if source.live:
                raise CalibrationError(
                    f"cannot calibrate on the camera {source.name} itself: the result could not be repeated; "
                    f"{CLIPS_FIX}"
                )
            for frame in source:
                if clip.end_s is not None and frame.t_s >= clip.end_s:
                    return
                if frame.t_s >= clip.start_s:
                    yield frame

    def _keep(self, index: int, frame: Frame) -> None:
        if self._room_bytes > 0:
            self._kept[index, frame.seq] = image = self._prepare(frame.image)
            self._room_bytes -= image.nbytes

    def pixels(self, wanted: set[tuple[int, int]]) -> tuple[np.ndarray, dict[tuple[int, int], int]]:
        """Preprocessed pixels (F, H, W, 3) of the wanted (clip, frame number) pairs, and each pair's place in them."""
        missing: dict[int, set[int]] = {}
        for clip, number in wanted - self._kept.keys():
            missing.setdefault(clip, set()).add(number)
        for clip, numbers in sorted(missing.items()):
            for frame in self._frames(clip):
                if frame.seq in numbers:
                    self._kept[clip, frame.seq] = self._prepare(frame.image)
                if frame.seq >= max(numbers):
                    break
        order = sorted(wanted)
        return np.stack([self._kept[pair] for pair in order]), {pair: place for place, pair in enumerate(order)}


def _split(
    stretches: Sequence[_Stretch], clips: Sequence[NamedClip], frames: int
) -> tuple[list[_Window], list[_Window]]:
    """(windows that calibrate, windows held out) of all stretches.

    Clips of known classes say themselves which they are. Of the others, the end of every stretch that is long enough is
    held out. Where none is, every fourth clip is; of fewer than four short clips, nothing.
    """
    calibrating: list[_Window] = []
    held_out: list[_Window] = []
    undecided = [clip for clip in range(len(clips)) if clips[clip].held_out is None]
    long = any(len(s.frames) >= 3 * frames for s in stretches if clips[s.clip].held_out is None)
    for stretch in stretches:
        decided, cut = clips[stretch.clip].held_out, len(stretch.frames)
        if decided is not None:
            cut = 0 if decided else cut
        elif cut >= 3 * frames:
            cut -= max(frames, round(HELD_OUT_SHARE * cut))
        elif not long and len(undecided) >= _EVERY and undecided.index(stretch.clip) % _EVERY == _EVERY - 1:
            cut = 0
        calibrating += [_Window(stretch.clip, window) for window in _windows(stretch.frames[:cut], frames)]
        held_out += [_Window(stretch.clip, window) for window in _windows(stretch.frames[cut:], frames)]
    return calibrating, held_out


def _unseen(
    held_out: list[_Window], calibrating: list[_Window], pixels: Mapping[tuple[int, int], bytes]
) -> list[_Window]:
    """The held-out windows none of whose pictures calibrates, each once.

    Two clips may hold the same pictures though no file is a copy: one cut out of the other, or in another container.
    """
    seen = {pixels[w.clip, f] for w in calibrating for f in w.frames}
    unseen: dict[tuple[bytes, ...], _Window] = {}
    for window in held_out:
        pictures = tuple(pixels[window.clip, f] for f in window.frames)
        if not seen & set(pictures):
            unseen.setdefault(pictures, window)
    return list(unseen.values())


def _windows(stretch: list[int], frames: int) -> list[tuple[int, ...]]:
    return [tuple(stretch[i : i + frames]) for i in range(len(stretch) - frames + 1)]


def _indices(windows: list[_Window], places: dict[tuple[int, int], int], frames: int) -> np.ndarray:
    rows = [[places[w.clip, f] for f in w.frames] for w in windows]
    return np.array(rows, dtype=np.int64).reshape(len(rows), frames)


def _check_content(clips: Clips) -> None:
    """Ranges taken from frames that show nothing would be wrong without anyone noticing."""
    used, _ = clips.only(clips.windows)
    distinct = len({hashlib.sha256(np.ascontiguousarray(frame)).digest() for frame in used})
    if distinct < MIN_SAMPLES:
        raise CalibrationError(
            f"the calibration clips hold only {distinct} different frames among {len(used)}; calibration needs at "
            f"least {MIN_SAMPLES}: {CLIPS_FIX}"
        )
    contrast = float(np.median(used.reshape(len(used), -1).std(axis=1)))
    if contrast < 2.0:
        raise CalibrationError(
            f"the calibration frames are nearly blank (contrast {contrast:.1f} of 255): is the lens covered? "
            f"{CLIPS_FIX}"
        )
