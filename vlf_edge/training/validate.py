"""How good a model is on clips it did not learn from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..datasets import ClipDataset
from ..errors import VlfError
from ..models.model import Model
from .broken import BrokenClips
from .device import Device
from .loader import Batch, ordered_batches

# Validation clips are the same every time: decoded ones of up to so many bytes are kept.
_KEPT_BYTES = 1 << 29


@dataclass(frozen=True)
class Scores:
    """loss: mean cross-entropy. top1: share of clips, 0 to 1. recall: of every class, None for one without clips.
    clips: how many were read. chance: share of them that is of the most frequent class. Balanced ones are as of classes
    that are equally frequent: loss is the mean over classes of their own mean, top1 the mean recall."""

    loss: float
    top1: float
    recall: tuple[float | None, ...]
    clips: int
    chance: float


class Validator:
    """Scores models on a data set, each process of a run on its share of the clips. balance: see ``Scores``."""

    def __init__(self, dataset: ClipDataset, device: Device, batch: int, workers: int, balance: bool = False):
        self.dataset, self._device, self._workers = dataset, device, workers
        self._batch, self._balance = batch, balance
        self._kept: list[Batch] | None = None
        self.broken = BrokenClips(dataset, "validation")

    @torch.no_grad()
    def __call__(self, model: Model) -> Scores:
        """model: in evaluation mode. Raises VlfError if no clip can be read."""
        classes, device = len(self.dataset.labels), self._device
        confusion = torch.zeros(classes, classes, dtype=torch.float64, device=device.torch)  # rows: truth
        losses = torch.zeros(classes, dtype=torch.float64, device=device.torch)  # sums, by truth
        for batch in self._batches():
            batch = batch.to(device.torch)
            with device.cast():
                logits = model(batch.clips).float()
            losses.index_add_(0, batch.labels, F.cross_entropy(logits, batch.labels, reduction="none").double())
            cells = batch.labels * classes + logits.argmax(dim=1)
            confusion += torch.bincount(cells, minlength=classes**2).view(classes, classes)
        confusion, losses = (device.all_reduce(sums).cpu().numpy() for sums in (confusion, losses))
        return _scores(confusion, losses, self._balance)

    def _batches(self) -> Iterable[Batch]:
        if self._kept is not None:
            yield from self._kept
            return
        mine = range(len(self.dataset))[self._device.rank :: self._device.world]
        kept: list[Batch] | None = []
        for batch in ordered_batches(self.dataset, mine, self._batch, self._workers):
            self.broken.note(batch.broken)
            if not len(batch):
                continue
            if kept is not None:
                kept.append(batch.copy())
                kept = kept if sum(one.bytes for one in kept) <= _KEPT_BYTES else None
            yield batch
        self._kept = kept


def _scores(confusion: np.ndarray, losses: np.ndarray, balance: bool) -> Scores:
    clips, per_class = int(confusion.sum()), confusion.sum(axis=1)
    if not clips:
        raise VlfError("no clip of the validation set could be read; see the messages above")
    # What each class counts for; those without clips for nothing.
    share = (per_class > 0) / np.count_nonzero(per_class) if balance else per_class / clips
    each = share / np.maximum(per_class, 1)
    recall = tuple(float(right / n) if n else None for right, n in zip(confusion.diagonal(), per_class))
    return Scores(float(losses @ each), float(confusion.diagonal() @ each), recall, clips, float(share.max()))
