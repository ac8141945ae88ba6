"""Clips in batches, read ahead by worker processes.

What a sample looks like depends on the run's seed and on its place in the run, never on which worker read it or how
many there are; so a run that starts again at any step sees what it would have seen.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..datasets import ClipDataset, Sample
from ..errors import SourceError, VlfError
from ..opencv import load_cv2

# A clip that cannot be read is replaced by another one, drawn this often before the place is left empty.
_DRAWS = 16
# For how long a worker goes on after SIGTERM: the main process ends within two seconds, and its workers with it.
_OUTLIVES_S = 3.0


class Ticket(NamedTuple):
    """Which clip is wanted. place: in the run, from 0; None: at test time. progress: 0 to 1, from easy to hard."""

    index: int
    place: int | None = None
    progress: float = 0.0


@dataclass
class Batch:
    """clips: (B, K, H, W, 3) uint8 BGR. labels: (B,) int64. targets: (B, K-1, T) float32 or None. acts: (B,) int64.
    NO_LABEL among labels and acts: none.
    broken: (index, message) of clips that could not be read. B is smaller than asked for where none could replace
    them, and may be 0: then there are no tensors."""

    clips: Tensor | None = None
    labels: Tensor | None = None
    targets: Tensor | None = None
    acts: Tensor | None = None
    broken: list[tuple[int, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return 0 if self.clips is None else len(self.clips)

    @property
    def bytes(self) -> int:
        """Memory of the clips."""
        return 0 if self.clips is None else self.clips.nbytes

    def pin_memory(self) -> Batch:
        """Asked for by DataLoader: page-locked memory reaches a GPU without waiting."""
        return self._each(Tensor.pin_memory)

    def copy(self) -> Batch:
        """In memory of its own, to keep: what worker processes send holds shared memory and open files."""
        return self._each(Tensor.clone)

    def to(self, device: torch.device) -> Batch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors = (self.clips, self.labels, self.targets, self.acts)
        return Batch(*(tensor if tensor is None else change(tensor) for tensor in tensors), self.broken)


@dataclass(frozen=True)
class ResumableBatchSampler(Sampler):
    """The tickets of every step from ``first`` on.

    clips: as many as the data set has, visited in an order that is drawn anew whenever all were seen; None: the data
    set never ends and is read in its own order. classes: those clips by class; where there are some, each class is
    drawn equally often, its clips in an order that is drawn anew whenever all of its own were seen. easy_first: clips
    get harder from epoch to epoch; else they are as hard as they come from the start. rank, world: this process takes
    its share of each batch, in one piece.
    """

    clips: int | None
    batch: int
    steps_per_epoch: int
    epochs: int
    seed: int
    first: int = 0
    easy_first: bool = True
    rank: int = 0
    world: int = 1
    classes: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs - self.first

    def __iter__(self) -> Iterator[list[Ticket]]:
        share = self.batch // self.world
        draw = self._balanced() if self.classes else self._shuffled() if self.clips else int
        for step in range(self.first, self.steps_per_epoch * self.epochs):
            progress = (step // self.steps_per_epoch) / max(1, self.epochs - 1) if self.easy_first else 1.0
            begin = step * self.batch + self.rank * share
            yield [Ticket(draw(place), place, progress) for place in range(begin, begin + share)]

    def _shuffled(self) -> Callable[[int], int]:
        """Place in the run -> clip: all of them once in every turn."""

        @lru_cache(1)
        def order(turn: int) -> np.ndarray:
            return np.random.default_rng((self.seed, turn)).permutation(self.clips)

        return lambda place: int(order(place // self.clips)[place % self.clips])

    def _balanced(self) -> Callable[[int], int]:
        """Place in the run -> clip: one of each class in every turn, so that a class's n-th clip is drawn in turn n."""

        @lru_cache(1)
        def order(turn: int) -> np.ndarray:
            return np.random.default_rng((self.seed, turn)).permutation(len(self.classes))

        @lru_cache(len(self.classes))
        def of_class(number: int, round_: int) -> np.ndarray:
            return np.random.default_rng((self.seed, number, round_)).permutation(self.classes[number])

        def draw(place: int) -> int:
            turn, at = divmod(place, len(self.classes))
            number = int(order(turn)[at])
            round_, one = divmod(turn, len(self.classes[number]))
            return int(of_class(number, round_)[one])

        return draw


class _Reader(Dataset):
    """Ticket -> sample, in whichever process."""

    def __init__(self, dataset: ClipDataset, seed: int):
        self._dataset, self._seed = dataset, seed
        self._progress = -1.0

    def __getitem__(self, ticket: Ticket) -> tuple[Sample | None, list[tuple[int, str]]]:
        if ticket.place is None:
            rng, draws = None, 1
        else:
            rng, draws = np.random.default_rng((self._seed, ticket.index, ticket.place)), _DRAWS
            self._tell_progress(ticket.progress)
        index, broken = ticket.index, []
        for _ in range(draws):
            try:
                return self._dataset.sample(index, rng), broken
            except SourceError as error:
                broken.append((index, str(error)))
                if rng is not None:
                    index = int(rng.integers(len(self._dataset)))
        return None, broken

    def _tell_progress(self, progress: float) -> None:
        set_progress = getattr(self._dataset, "set_progress", None)
        if set_progress is not None and progress != self._progress:
            set_progress(progress)
        self._progress = progress


def shuffled_batches(
    dataset: ClipDataset, sampler: ResumableBatchSampler, seed: int, workers: int, pin: bool
) -> Iterator[Batch]:
    """One batch for every step of ``sampler``, across the ends of epochs. Raises VlfError if a worker dies."""
    return _batches(DataLoader(**_options(dataset, seed, workers, pin), batch_sampler=sampler))


def ordered_batches(
    dataset: ClipDataset, indices: Sequence[int], batch: int, workers: int, pin: bool = False
) -> Iterator[Batch]:
    """The clips of these indices once, in this order, without augmentation. Raises VlfError if a worker dies."""
    tickets = [[Ticket(i) for i in indices[at : at + batch]] for at in range(0, len(indices), batch)]
    return _batches(DataLoader(**_options(dataset, 0, min(workers, len(tickets)), pin), batch_sampler=tickets))


def _options(dataset: ClipDataset, seed: int, workers: int, pin: bool) -> dict:
    return {
        "dataset": _Reader(dataset, seed),
        "num_workers": workers,
        "collate_fn": _collate,
        "worker_init_fn": _set_up_worker,
        "pin_memory": pin,
        "prefetch_factor": 4 if workers else None,
        # Python 3.14 would start them anew: with all imports, and without what data sets share.
        "multiprocessing_context": "fork" if workers else None,
    }


def _batches(loader: DataLoader) -> Iterator[Batch]:
    try:
        yield from _started(loader)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or "exited unexpectedly" not in str(error):
            raise
        raise VlfError(
            "a process that reads clips died, most likely for want of memory (or of /dev/shm in a container); "
            "try a smaller --batch or --workers 0"
        ) from error


def _started(loader: DataLoader) -> Iterator[Batch]:
    """The loader's iterator, its workers forked while OpenCV has no threads here.

    A fork copies OpenCV's pool without its threads, and the copy waits for them for ever.
    """
    cv2 = load_cv2()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return iter(loader)
    finally:
        cv2.setNumThreads(threads)


def _collate(read: list[tuple[Sample | None, list[tuple[int, str]]]]) -> Batch:
    samples = [sample for sample, _ in read if sample is not None]
    broken = [one for _, ones in read for one in ones]
    if not samples:
        return Batch(broken=broken)
    targets = [sample.targets for sample in samples if sample.targets is not None]
    return Batch(
        torch.from_numpy(np.stack([sample.frames for sample in samples])),
        torch.tensor([sample.label for sample in samples]),
        torch.from_numpy(np.asarray(np.stack(targets), np.float32)) if len(targets) == len(samples) else None,
        torch.tensor([sample.act for sample in samples]),
        broken,
    )


def _set_up_worker(worker: int) -> None:
    """One thread each (OpenCV: see ``_started``): there are as many workers as cores.

    SIGINT is ignored: the main process handles it and stops its workers. After SIGTERM, which service managers send to
    all processes at once, a worker lives on long enough for the main process to finish the step under way.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.setitimer(signal.ITIMER_REAL, _OUTLIVES_S))
