"""Clips that cannot be read: counted, named once, and no reason to stop unless a class has no others."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

import torch

from ..datasets import ClipDataset
from ..errors import VlfError
from .device import Device

_NAMED = 10
_log = logging.getLogger(__name__)


class BrokenClips:
    """The clips of a data set that could not be read so far, by index. use: what they are for, in messages."""

    def __init__(self, dataset: ClipDataset, use: str):
        self._dataset, self._use = dataset, use
        self.messages: dict[int, str] = {}

    def count(self, device: Device) -> int:
        """How many clips, over all processes of a run: each sees only its share. All must call it."""
        found = torch.zeros(len(self._dataset), device=device.torch)
        found[list(self.messages)] = 1
        return int(torch.count_nonzero(device.all_reduce(found)))

    def note(self, broken: Iterable[tuple[int, str]]) -> None:
        """Takes in (index, message). Raises VlfError once every clip of a class is broken."""
        new = {index: message for index, message in broken if index not in self.messages}
        for index, message in new.items():
            self.messages[index] = message
            if len(self.messages) <= _NAMED:
                _log.warning("%s clip left out: %s", self._use, message)
            elif len(self.messages) == _NAMED + 1:
                _log.warning("more %s clips cannot be read; they are counted", self._use)
        if new:
            self._check_classes()

    def _check_classes(self) -> None:
        clips = self._dataset.clips
        bad = Counter(clips[index].label for index in self.messages)
        there = Counter(clip.label for clip in clips)
        for label, count in bad.items():
            if count == there[label]:
                message = next(said for index, said in self.messages.items() if clips[index].label == label)
                raise VlfError(
                    f"class {self._dataset.labels[label]!r} has no readable clip for {self._use}: all {count} are "
                    f"broken, such as: {message}"
                )
