"""Session: someone teaches a plan in front of a camera. Frames and keys in, what is to be shown out.

    key of a label --countdown--> act: the windows of the next seconds --Teaching--> a head that knows them at once

Plain code without threads, screen or keyboard; time is that of the frames.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import VlfError
from ..head import UNKNOWN
from ..plan import Plan
from ..types import Frame
from ..video.motion_energy import how_much
from .clips import check_labels
from .reading import Reader, Watch
from .teaching import Teaching

NOTHING = ("nothing", UNKNOWN)  # how people call what is none of their labels
ESCAPE, ENTER, ERASE = "\x1b", "\r\n", "\x7f\b"
HELP = "0-9 an example   n new label   u undo   s save   q quit"
KEYS = "0123456789usq" + ESCAPE  # what each of them means: ``Session.do``
_MOST_LABELS = 9
MOST_S = 60.0


@dataclass
class Example:
    """One that is asked for. begin_s: when it begins, on the frames' clock. watch: what was seen of it, once it has."""

    label: str
    begin_s: float
    watch: Watch | None = None


class Now(NamedTuple):
    """What is to be done now. label: as people read it. acting: now; else in ``left_s``. left_s: until it begins, or
    ends, in seconds."""

    label: str
    acting: bool
    left_s: float


class Session:
    """Takes each frame (``see``) and each key (``press``).

    reader: of the teaching's plan and answer. labels: those with a key, in order; those of the plan come first.
    output: where to save. seconds: how long an example is. countdown_s: before it. wants_more: False once it is over.
    messages: what happened, in lines, for the caller to take away; news: the latest of it, or what keys there are.
    saved: the plan as it was written last.
    """

    def __init__(
        self,
        reader: Reader,
        teaching: Teaching,
        labels: Sequence[str],
        output: str | os.PathLike[str],
        *,
        seconds: float,
        countdown_s: float,
    ):
        if not reader.least_s <= seconds <= MOST_S:
            raise VlfError(
                f"an example is to be {seconds:g} s long; expected from {reader.least_s:g} s, one window of this plan, "
                f"to {MOST_S:g} s"
            )
        if not 0 <= countdown_s <= MOST_S:
            raise VlfError(f"the countdown is {countdown_s:g} s; expected from 0 to {MOST_S:g}")
        self.teaching, self.wants_more = teaching, True
        self.messages: list[str] = []
        self.news = HELP
        self.saved: Plan | None = None
        self._reader, self._live, self._output = reader, reader.follow(), output
        self._seconds, self._countdown_s = seconds, countdown_s
        wanted = [UNKNOWN if label in NOTHING else label for label in labels]
        if named_ones := [label for label in wanted if label != UNKNOWN]:
            check_labels(named_ones)
        self.labels = list(dict.fromkeys([*teaching.before.labels, *wanted]))
        if len(self.labels) > _MOST_LABELS:
            raise VlfError(
                f"there are {len(self.labels)} labels and {_MOST_LABELS} keys for them; teach some now, and the others "
                "later or with vlf-edge enrol"
            )
        self.decided: tuple[str, float] | None = None
        self._now_s: float | None = None
        self._example: Example | None = None
        self._typed: str | None = None
        self._leaving = False

    def see(self, frame: Frame) -> None:
        """The next frame."""
        if self._example and (frame.begins or (self._now_s is not None and frame.t_s < self._now_s)):
            self._say(f"the example of {named(self._example.label)} is given up: the camera was interrupted")
            self._drop()
        self._now_s = frame.t_s
        _, (answer,) = self._live.push(frame)
        if answer is not None:
            self.decided = self.teaching.decide(answer)
        if self._example is not None:
            self._continue(self._example, frame)

    def press(self, keys: str) -> None:
        """Keys as a terminal gives them; n begins a label that is typed."""
        if keys[0:1] == ESCAPE and len(keys) > 1:
            return  # an arrow, or another key that sends several characters
        for key in keys:
            if self._typed is not None:
                self._type(key)
            elif key == "n":
                self._typed, self._leaving = "", False
            else:
                self.do(key)

    @property
    def keys(self) -> list[tuple[str, str, int]]:
        """(key, label, how many examples) of each."""
        counts = self.teaching.examples
        numbered = [(str(n), named(label), counts.get(label, 0)) for n, label in enumerate(self.labels, 1)]
        return numbered if UNKNOWN in self.labels else [*numbered, ("0", named(UNKNOWN), counts[UNKNOWN])]

    @property
    def status(self) -> str:
        """All of it in one line."""
        keys = "  ".join(f"{key} {label} {count}" for key, label, count in self.keys)
        decided = "" if self.decided is None else f"{named(self.decided[0])} {self.decided[1]:.0%}"
        return " | ".join(part for part in (self.doing, decided, keys) if part)

    @property
    def acting(self) -> bool:
        """Whether an example is being watched: its countdown is over."""
        return self._example is not None and self._example.watch is not None

    @property
    def doing(self) -> str:
        """What goes on, in a few words; empty if nothing does."""
        if self._typed is not None:
            return f"new label: {self._typed}_"
        if (now := self.now) is None:
            return ""
        return f"{now.label}: now, for {now.left_s:.1f} s" if now.acting else f"{now.label} in {math.ceil(now.left_s)}"

    @property
    def now(self) -> Now | None:
        """The example that is asked for, if one is."""
        if self._example is None or self._now_s is None:
            return None
        label, left_s = named(self._example.label), self._example.begin_s - self._now_s
        return Now(label, False, left_s) if left_s > 0 else Now(label, True, max(0.0, left_s + self._seconds))

    def _say(self, text: str) -> None:
        self.news = text
        self.messages.append(text)

    def _continue(self, example: Example, frame: Frame) -> None:
        if frame.t_s < example.begin_s:
            return
        if example.watch is None:
            example.watch = self._reader.watch(mirror=True, still=True)
        example.watch.push(frame)
        if frame.t_s - example.begin_s >= self._seconds:
            self._example = None
            self._learn(example.label, example.watch)

    def _learn(self, label: str, watch: Watch) -> None:
        reading = watch.finish()
        begun_s = time.perf_counter()
        try:
            self.teaching.add(label, reading, self._reader.least_s)
        except VlfError as error:
            self._say(str(error))
            return
        took_ms = (time.perf_counter() - begun_s) * 1e3
        self._say(
            f"{named(label)}: example {self.teaching.examples[label]}, {how_much(reading.moved)} moved "
            f"({reading.moved:.0f} of 255); learned in {took_ms:.0f} ms"
        )

    def do(self, key: str) -> None:
        """What one of ``KEYS`` asks for, whatever is being typed; no other key asks for anything."""
        leaving, self._leaving = self._leaving, False
        if key.isascii() and key.isdigit():
            self._ask(int(key))
        elif key == ESCAPE and self._example is not None:
            self._drop()
            self._say("given up")
        elif key == "u":
            label = self.teaching.undo()
            self._say(f"undone: an example of {named(label)}" if label else "there is nothing to undo")
            self.decided = None
        elif key == "s":
            self.save()
        elif key == "q":
            self._leave(sure=leaving)

    def name(self, label: str) -> None:
        """Gives a new label the next key; a message says which, or why not."""
        try:
            check_labels([label])
            if label in self.labels or label in NOTHING:
                raise VlfError(f"{label!r} has a key already")
            if len(self.labels) == _MOST_LABELS:
                raise VlfError(f"all {_MOST_LABELS} keys are taken; teach more labels with vlf-edge enrol")
        except VlfError as error:
            self._say(str(error))
            return
        self.labels.append(label)
        self._say(f"{label!r} has the key {len(self.labels)}")

    def save(self) -> None:
        """Writes the plan; a message says so, or why not."""
        try:
            self.saved = plan = self.teaching.save(self._output)
        except VlfError as error:
            self._say(str(error))
        else:
            self._say(f"saved {plan.path}: {', '.join(plan.manifest.labels)}")

    @property
    def loses(self) -> int:
        """How many examples that came, or went, would be lost if it ended now."""
        return self.teaching.unsaved if self.teaching.labels else 0

    def stop(self) -> None:
        """Ends it; any thread may call."""
        self.wants_more = False

    def _leave(self, sure: bool) -> None:
        if self.loses and not sure:
            self._leaving = True
            self._say("not saved yet: s saves, q once more leaves without")
        else:
            self.wants_more = False

    def _ask(self, number: int) -> None:
        if number > len(self.labels):
            self._say(f"no label has the key {number}; n names a new one")
        elif self._now_s is None:
            self._say("there is no picture yet")
        else:
            self._drop()
            label = self.labels[number - 1] if number else UNKNOWN
            self._example = Example(label, self._now_s + self._countdown_s)

    def _drop(self) -> None:
        if self._example is not None and self._example.watch is not None:
            self._example.watch.finish()
        self._example = None

    def _type(self, key: str) -> None:
        typed = self._typed or ""
        if key in ENTER:
            self._typed = None
            self.name(typed.strip())
        elif key == ESCAPE:
            self._typed = None
        elif key in ERASE:
            self._typed = typed[:-1]
        elif key.isprintable():
            self._typed = typed + key


def named(label: str) -> str:
    """A label as people read it."""
    return NOTHING[0] if label == UNKNOWN else label
