"""What trained weights make of every validation clip, and which of them they get most wrong."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..datasets import ClipDataset
from ..models.vlf import VLF
from .device import Device
from .loader import ordered_batches

_WORST = 12


@dataclass(frozen=True)
class Answer:
    """What a model says of one clip. name: of the clip. truth, decided: indices into the labels. truth_share,
    decided_share: their probabilities. frames: (K, H, W, 3) uint8 BGR, all that the model saw."""

    name: str
    truth: int
    decided: int
    truth_share: float
    decided_share: float
    frames: np.ndarray


@dataclass(frozen=True)
class Judgement:
    """confusion: (C, C) int64 counts of clips, rows the truth. worst: those whose true class got the least probability,
    the worst first."""

    confusion: np.ndarray
    worst: tuple[Answer, ...]


@torch.no_grad()
def judge(
    model: VLF, dataset: ClipDataset, device: Device, batch: int, workers: int, progress: Callable[[int, int], None]
) -> Judgement:
    """Runs the model, in evaluation mode, over all clips that can be read. progress: called with (clips done, all)."""
    classes, count = len(dataset.labels), len(dataset)
    confusion = np.zeros((classes, classes), np.int64)
    worst: list[tuple[float, int, Answer]] = []  # a heap: the least wrong one is its first
    for at, clips in zip(range(0, count, batch), ordered_batches(dataset, range(count), batch, workers)):
        broken = {index for index, _ in clips.broken}
        indices = [index for index in range(at, min(at + batch, count)) if index not in broken]
        progress(min(at + batch, count), count)
        if not len(clips):
            continue
        with device.cast():
            logits = model(clips.clips.to(device.torch)).float()
        shares = F.softmax(logits, dim=1).cpu().numpy()
        for index, frames, truth, row in zip(indices, clips.clips.numpy(), clips.labels.tolist(), shares):
            decided = int(row.argmax())
            confusion[truth, decided] += 1
            rank = (-float(row[truth]), -index)  # no two alike: answers are never compared
            if len(worst) == _WORST and rank < worst[0][:2]:
                continue
            name = dataset.clips[index].name
            answer = Answer(name, truth, decided, float(row[truth]), float(row[decided]), frames.copy())
            (heapq.heappushpop if len(worst) == _WORST else heapq.heappush)(worst, (*rank, answer))
    return Judgement(confusion, tuple(answer for *_, answer in sorted(worst, key=lambda one: one[:2], reverse=True)))
