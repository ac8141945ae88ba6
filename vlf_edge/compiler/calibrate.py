"""Clips for calibration, taken exactly as the live runtime takes them: same sources, same sampler, same preprocessing.

A window that calibrates is a window the camera could have given. Windows overlap, as they do live, and every frame is
kept once. The end of each long clip, or every fourth of many short ones, is held out, so that what INT8 costs is
measured on frames it never saw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import CalibrationError
from ..runtime.preprocess import Preprocessor
from ..runtime.sampler import Sampler, segment_centres
from ..runtime.sources import expand_clips, open_source
from ..types import Preprocess, Sampling
from .recipe import CLIPS_FIX, MIN_SAMPLES

HELD_OUT_SHARE = 0.25
_EVERY = 4
MAX_HELD_OUT = 32


@dataclass(frozen=True)
class Clips:
    """Windows over unique frames.

    frames: (F, H, W, 3) uint8, preprocessed. windows: (n, K) int, indices into frames, oldest first; what calibrates.
    held_out: (m, K) int, windows that share no frame with those; may be empty. sources: names of the clips.
    """

    frames: np.ndarray
    windows: np.ndarray
    held_out: np.ndarray
    sources: tuple[str, ...]

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


def stage_feeds(
    stage: str, clips: Clips, portable: Mapping[str, bytes], batch: int = 8
) -> tuple[int, Iterator[dict[str, np.ndarray]]]:
    """(how many samples, batches of inputs) that calibrate a stage.

    The frame stage sees the unique frames of the calibration windows. The clip stage sees what the quantised frame
    stage, ``portable["frame"]``, makes of them: that is what it will be given live.
    """
    from .graph import Session

    frames, windows = clips.only(clips.windows)
    if stage == "frame":
        return len(frames), ({"image": frames[i : i + batch]} for i in range(0, len(frames), batch))

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        session = Session(portable["frame"])
        batches = (session.run({"image": frames[i : i + batch]}) for i in range(0, len(frames), batch))
        tokens = np.concatenate([outputs["tokens"] for outputs in batches])
        for i in range(0, len(windows), batch):
            yield {"tokens": tokens[windows[i : i + batch]]}

    return len(windows), feeds()


@dataclass(frozen=True)
class _Window:
    clip: int
    frames: tuple[int, ...]


def collect_clips(
    what: Sequence[str | Path],
    sampling: Sampling,
    preprocess: Preprocess,
    *,
    samples: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Clips:
    """Reads clips and takes ``samples`` windows spread evenly over all of them.

    what: files, folders of videos, globs, test://motion. progress: called with (clips read, clips in all). Raises
    CalibrationError for too few windows or frames that show nothing, SourceError for what cannot be read.
    """
    names = [clip for item in what for clip in expand_clips(item)]
    if not names:
        raise CalibrationError(f"calibration needs real clips and got none; {CLIPS_FIX}")
    if progress:
        progress(0, len(names))
    stretches = [(index, stretch) for index, name in enumerate(names) for stretch in _stretches(name, sampling)]
    calibrating, held_out = _split(stretches, len(names), sampling.frames)
    if len(calibrating) < MIN_SAMPLES:
        raise CalibrationError(
            f"{len(names)} clip(s) give {len(calibrating)} windows of {sampling.frames} frames over "
            f"{sampling.span_s:g} s; calibration needs at least {MIN_SAMPLES}, better 64: {CLIPS_FIX}"
        )
    calibrating, held_out = _spread(calibrating, samples), _spread(held_out, min(samples, MAX_HELD_OUT))
    frames, places = _load(names, {(w.clip, f) for w in calibrating + held_out for f in w.frames}, preprocess, progress)
    clips = Clips(
        frames=frames,
        windows=_indices(calibrating, places, sampling.frames),
        held_out=_indices(held_out, places, sampling.frames),
        sources=tuple(Path(name).name if "://" not in name else name for name in names),
    )
    _check_content(clips)
    return clips


def _stretches(name: str, sampling: Sampling) -> list[list[int]]:
    """Numbers of the frames on the sampling grid, one list for each stretch without a gap."""
    # One window an instant is the plan's own rate; interleaved phases would only repeat neighbours.
    sampler = Sampler(replace(sampling, phases=1))
    stretches: list[list[int]] = []
    with open_source(name) as source:
        if source.live:
            raise CalibrationError(
                f"cannot calibrate on the camera {name} itself: the result could not be repeated; {CLIPS_FIX}"
            )
        for frame in source:
            tick = sampler.accept(frame.t_s)
            if tick is None:
                continue
            if tick.gap or not stretches:
                stretches.append([])
            stretches[-1].append(frame.seq)
    return stretches


def _split(stretches: list[tuple[int, list[int]]], clips: int, frames: int) -> tuple[list[_Window], list[_Window]]:
    """(windows that calibrate, windows held out) of all (clip, stretch) pairs.

    The end of every stretch that is long enough is held out. Where none is, every fourth clip is; of fewer than four
    short clips, nothing.
    """
    calibrating: list[_Window] = []
    held_out: list[_Window] = []
    long = [len(stretch) >= 3 * frames for _, stretch in stretches]
    for (clip, stretch), is_long in zip(stretches, long):
        cut = len(stretch)
        if is_long:
            cut -= max(frames, round(HELD_OUT_SHARE * len(stretch)))
        elif not any(long) and clips >= _EVERY and clip % _EVERY == _EVERY - 1:
            cut = 0
        calibrating += [_Window(clip, window) for window in _windows(stretch[:cut], frames)]
        held_out += [_Window(clip, window) for window in _windows(stretch[cut:], frames)]
    return calibrating, held_out


def _windows(stretch: list[int], frames: int) -> list[tuple[int, ...]]:
    return [tuple(stretch[i : i + frames]) for i in range(len(stretch) - frames + 1)]


def _spread(windows: list[_Window], count: int) -> list[_Window]:
    return windows if len(windows) <= count else [windows[i] for i in segment_centres(len(windows), count)]


def _load(
    names: Sequence[str],
    wanted: set[tuple[int, int]],
    preprocess: Preprocess,
    progress: Callable[[int, int], None] | None,
) -> tuple[np.ndarray, dict[tuple[int, int], int]]:
    """Preprocessed pixels of the wanted (clip, frame number) pairs, and each pair's place in them."""
    prepare, pixels, places = Preprocessor(preprocess), [], {}
    for index, name in enumerate(names):
        last = max((seq for clip, seq in wanted if clip == index), default=-1)
        with open_source(name) as source:
            for frame in source if last >= 0 else ():
                if (index, frame.seq) in wanted:
                    places[index, frame.seq] = len(pixels)
                    pixels.append(prepare(frame.image))
                if frame.seq >= last:
                    break
        if progress:
            progress(index + 1, len(names))
    return np.stack(pixels), places


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
