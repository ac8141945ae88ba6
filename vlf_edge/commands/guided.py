"""Guided recording: clips of one action into a folder of its own, each after a countdown, each with how much moved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..enrolment.clips import check_labels
from ..enrolment.recording import Recorder, Take, least_seconds, usual_seconds
from ..enrolment.session import NOTHING
from ..errors import SourceError, VlfError
from ..plan import Plan
from ..printable import printable
from ..runtime.sinks import VideoWriter
from ..video.motion_energy import STILL, how_much
from ..video.sources import Source
from .status_line import StatusLine

if TYPE_CHECKING:
    from .lesson_window import LessonWindow


def record(
    source: Source,
    folder: Path,
    label: str,
    plan: Plan,
    *,
    count: int,
    seconds: float | None,
    countdown_s: float,
    window: LessonWindow | None = None,
) -> int:
    """Records ``count`` clips into folder/label/0001.mp4 and so on, after those that are there; prints each with how
    much moved in it. Returns how many it was until the source ended, or a key in the window ended it.

    seconds: None for what suits the plan. Raises SourceError if the source ends before a clip was full.
    """
    manifest = plan.manifest
    seconds = usual_seconds(manifest) if seconds is None else seconds
    if seconds < least_seconds(manifest):
        raise VlfError(
            f"--seconds is {seconds:g}; a clip must hold one window of {plan.path}: {least_seconds(manifest):g} or more"
        )
    recorder, done = Recorder(manifest, seconds, countdown_s), 0
    place = _folder_of(folder, label)
    with StatusLine() as line:
        for frame in source:
            before, take = recorder.recording, recorder.see(frame)
            if before != recorder.recording:
                line.ring()
            doing = f"{label} {done + 1} of {count}: {recorder.doing}" if recorder.doing else ""
            line.show(doing)
            pressed = "" if window is None else window.show(frame.image, doing)
            if take is not None:
                line.show("")
                path = _write(take, place)
                done += 1
                print(printable(f"{path}  {how_much(take.moved)} moved ({take.moved:.0f} of 255)"), flush=True)
                if take.moved < STILL and label not in NOTHING:
                    line.tell(f"nothing moves in {path}: enrol would leave it out; is the camera covered?")
            if done == count or "q" in pressed or "\x1b" in pressed:
                return done
    if done == 0:
        raise SourceError(f"{source.name} ended before a clip of {seconds:g} s was full")
    return done


def check_label(label: str) -> None:
    """Raises VlfError for what can be no label, or no folder's name."""
    if label not in NOTHING:
        check_labels([label])
    if re.search(r"[/\\]", label) or label.startswith("."):
        raise VlfError(f"the label is {label!r}; it names the clips' folder too, so without / and no dot first")


def _folder_of(folder: Path, label: str) -> Path:
    place = folder / label
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VlfError(f"cannot write clips to {place}: {error.strerror}") from None
    return place


def _write(take: Take, place: Path) -> Path:
    """The clip, with the number after the highest that is there."""
    numbers = (re.fullmatch(r"(\d+)\.mp4", path.name) for path in place.iterdir())
    path = place / f"{1 + max((int(match[1]) for match in numbers if match), default=0):04d}.mp4"
    with VideoWriter(path, take.fps) as writer:
        for frame in take.frames:
            writer.write(frame.image)
    return path
