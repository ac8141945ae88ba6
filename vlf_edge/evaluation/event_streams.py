"""Labelled clips and annotated videos as streams in which it is known what happens when.

A clip that is labelled as a whole becomes a stream of its own: its first frame held for a while, the clip, its last
frame held. Clips one after another would be no such stream: a cut is a motion that no fixed camera sees, and models
decide for something there. Of a video in which stretches are labelled all is played, once, and what is between them is
what it is. Clips and sources in which nothing happens show how often events come from nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SourceError
from ..plan import Plan
from ..runtime.event_settings import EventSettings
from ..runtime.runtime import Runtime
from ..types import Frame
from ..video.sources import DEFAULT_FPS, Source, open_source
from .events import Action, Played, events_of, summarize_events
from .scores import Progress, clip_name

if TYPE_CHECKING:
    from ..datasets import Clip, ClipDataset

# How long the first and the last frame of a clip are held: the window must fill, and empty again.
HELD_SPANS = 1.5


class HeldClip(Source):
    """A source whose first and last frames are held for ``held_s`` each; time begins at 0.

    end_s: when its last own frame is over, once it has been read.
    """

    def __init__(self, source: Source, held_s: float):
        super().__init__(source.name)
        self.fps, self.paths = source.fps or DEFAULT_FPS, source.paths
        self.held_s, self.end_s = held_s, 0.0
        self._source = source
        self._frames = self._all()

    def read(self) -> Frame | None:
        return next(self._frames, None)

    def close(self) -> None:
        self._source.close()

    def _all(self) -> Iterator[Frame]:
        first = last = None
        for last in self._source:
            if first is None:
                first = last
                yield from self._hold(first, 0.0)
            yield self._frame(last.image, self.held_s + last.t_s - first.t_s)
        if first is not None:
            own = last.seq - first.seq
            own_s = last.t_s - first.t_s
            self.end_s = self.held_s + own_s + (own_s / own if own else 1 / self.fps)
            yield from self._hold(last, self.end_s)

    def _hold(self, frame: Frame, from_s: float) -> Iterator[Frame]:
        for i in range(round(self.held_s * self.fps)):
            yield self._frame(frame.image, from_s + i / self.fps)


class _Stream(NamedTuple):
    """name: of the source. clips: what is labelled in it. held: it is one clip, to be held at both ends."""

    name: str
    clips: tuple[Clip, ...] = ()
    held: bool = False


def evaluate_events(
    plan: Plan,
    dataset: ClipDataset,
    whole: ClipDataset,
    settings: EventSettings,
    *,
    nothing: Sequence[str] = (),
    on: dict[str, Any],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Plays a data set's clips and videos as streams and judges the events of them. Returns plain JSON values.

    whole: the same data with all its splits, which says what else happens in a video. nothing: further sources, in
    which nothing happens. on: what to run on, as ``Runtime`` takes it. progress: called with ("event streams", done,
    total). The report holds what ``summarize_events`` gives, "nothing" (streams, hours, events, false_per_hour and its
    interval of the streams in which no action is labelled), settings, ignored (the labels that make no event) and
    broken {name: why}. Raises VlfError for settings that do not
    fit the plan.
    """
    broken: dict[str, str] = {}
    happening: list[Played] = []
    idle: list[Played] = []
    streams = [*_streams(dataset, whole), *map(_Stream, nothing)]
    with Runtime(plan, **on) as runtime:
        ignored = runtime.event_detector(settings).ignored
        for done, stream in enumerate(streams):
            if progress:
                progress("event streams", done, len(streams))
            try:
                played = _play(runtime, settings, stream, dataset.labels, ignored)
            except SourceError as error:
                broken[clip_name(stream.clips[0]) if stream.held else stream.name] = str(error)
                continue
            (happening if played.truth else idle).append(played)
    if progress:
        progress("event streams", len(streams), len(streams))
    acting = [label for label in dataset.labels if label not in ignored]
    quiet = summarize_events(idle, acting)
    report = summarize_events(happening, acting)
    report["nothing"] = {name: quiet[name] for name in ("streams", "hours", "events", "false_per_hour")}
    report["nothing"]["interval"] = quiet["intervals"].get("false_per_hour")
    used = {f.name: getattr(settings, f.name) for f in fields(settings)} | {"thresholds": settings.threshold_of}
    return report | {"settings": used, "ignored": list(ignored), "broken": broken}


def _streams(dataset: ClipDataset, whole: ClipDataset) -> list[_Stream]:
    """One for each clip that is a file, and one for each video with labelled stretches, in the data's order."""
    labelled: dict[str, list[Clip]] = {}
    for clip in whole.clips:
        labelled.setdefault(clip.name, []).append(clip)
    streams: dict[object, _Stream] = {}
    for clip in dataset.clips:
        clips = labelled.get(clip.name, [clip])
        if all(one.start_s == 0 and one.end_s is None for one in clips):
            streams[clip.name, clip.label] = _Stream(clip.name, (clip,), held=True)
        else:
            streams[clip.name] = _Stream(clip.name, tuple(clips))
    return list(streams.values())


def _play(
    runtime: Runtime, settings: EventSettings, stream: _Stream, labels: Sequence[str], ignored: Sequence[str]
) -> Played:
    source = open_source(stream.name)
    if source.live:
        source.close()
        raise SourceError(f"{stream.name} is a camera and never ends: events are judged on files")
    if stream.held:
        source = HeldClip(source, HELD_SPANS * runtime.recognizer.sampling.span_s)
    played = events_of(stream.name, runtime.stream(source), runtime.event_detector(settings))
    truth = []
    for clip in stream.clips:
        start_s, end_s = clip.start_s, played.end_s if clip.end_s is None else clip.end_s
        if isinstance(source, HeldClip):
            start_s, end_s = source.held_s, source.end_s
        if labels[clip.label] not in ignored:
            truth.append(Action(labels[clip.label], start_s, end_s))
    return replace(played, truth=tuple(truth))
