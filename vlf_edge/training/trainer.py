"""One run: steps, epochs, and how both survive a kill."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..datasets import ClipDataset
from ..errors import VlfError, WeightsError, one_line
from ..models.model import Model
from ..models.weights import save_weights
from ..synthetic import ACTS
from . import curves
from .broken import BrokenClips
from .checkpoint import (
    Outputs,
    check_same_run,
    check_values,
    load_state,
    optimizer_tensors,
    restore_optimizer,
    save_state,
    write_bytes,
)
from .device import Device
from .frozen import freeze_stage
from .loader import Batch, ResumableBatchSampler, shuffled_batches
from .objective import Objective, Student, load_teachers
from .optimizer import WeightAverage, learning_rate, make_optimizer
from .outlook import Outlook
from .qat import plain_copy, trained_scales
from .record import files, rank, scores_of, software
from .settings import Settings
from .validate import Scores, Validator
from .verdict import has_stalled, verdict

Progress = Callable[[str, int, int], None]
_SAVE_EVERY_S = 300.0
_CHECK_EVERY_STEPS = 20
# What is worth a state of its own before the weights are judged, which can be long and is ended at once by a signal.
_WORTH_S = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a run came to. best, last: the weights files. finished: False if it was stopped and can be resumed.
    history: one row for every finished epoch, as in the CSV. record: of the best weights, {} if there are none yet.
    is_main: True in the one process, of those torchrun started, that reports. advice: what to do about a finished run
    that plainly has not learned, else None."""

    best: Path
    last: Path
    finished: bool
    history: tuple[dict[str, Any], ...]
    record: dict[str, Any]
    is_main: bool = True
    advice: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "best": str(self.best),
            "last": str(self.last),
            "finished": self.finished,
            "advice": self.advice,
            "record": self.record,
            "history": list(self.history),
        }


class Trainer:
    """One run on one device: all that changes while it goes on.

    step: how many were taken. history: rows of finished epochs. best: record of the best weights so far.
    """

    def __init__(
        self,
        settings: Settings,
        device: Device,
        outputs: Outputs,
        model: Model,
        train_set: ClipDataset,
        val_set: ClipDataset,
        command: str,
    ):
        self.settings, self.device, self.outputs, self.command = settings, device, outputs, command
        self.train_set = train_set
        torch.manual_seed(settings.seed)
        teachers = load_teachers(settings.teachers, model, train_set.labels, device.torch, settings.hint_weight > 0)
        acts = ACTS if settings.acts else 0
        student = Student(model, len(train_set.targets), teachers.hints if teachers else 0, acts)
        self.student = student.to(device.torch, memory_format=torch.channels_last).train()
        if settings.freeze:
            freeze_stage(model, settings.freeze)
        if settings.compile:
            self.student.compile()
        self.parallel = device.distributed(self.student)
        self.average = WeightAverage(model, settings.ema_decay)
        self.optimizer = make_optimizer(self.student, settings.peak_lr, settings.weight_decay)
        self.scaler = device.scaler()
        used = {"from": [settings.start] if settings.start else [], "teachers": settings.teachers}
        self.files = {use: files(paths) for use, paths in used.items() if paths}
        self.objective = Objective(
            settings.label_smoothing,
            settings.motion_weight,
            settings.motion_weight_end,
            teachers,
            settings.hint_weight,
        )
        self.steps_per_epoch = settings.steps_per_epoch(len(train_set))
        self.steps = self.steps_per_epoch * settings.epochs
        share = max(1, settings.batch // device.world)
        self.validator = Validator(val_set, device, share, settings.workers, settings.balance)
        self.broken = BrokenClips(train_set, "training")
        self.step, self.clips, self.history = 0, 0, []
        self.best: dict[str, Any] | None = None
        # Over the epoch under way and all processes: sum of losses, right answers, clips.
        self.sums = torch.zeros(3, dtype=torch.float64, device=device.torch)
        self._earlier_s, self._start_s, self._saved_s = 0.0, time.monotonic(), time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the run has taken so far, without the pauses between stop and resumption."""
        return self._earlier_s + time.monotonic() - self._start_s

    @property
    def finished(self) -> bool:
        """True if no step is left, or none that is worth taking."""
        return self.step == self.steps or has_stalled(self.history, self.settings.most_idle_epochs)

    def fit(self, progress: Progress, should_stop: Callable[[], bool]) -> Outcome:
        """Takes all steps that are left, or fewer if nothing improves, time is up or it is told to stop."""
        limit_s = math.inf if self.settings.max_minutes is None else 60 * self.settings.max_minutes
        if self.step == self.steps_per_epoch * (len(self.history) + 1):  # it was stopped while this was under way
            self._publish(ends_epoch=True)
        outlook = Outlook(self.steps - self.step, limit_s)
        for batch in () if self.finished else self._batches():
            self._train_step(batch)
            if self.device.is_main and (said := outlook.after_step()):
                _log.info("%s", said)
            epoch, done = divmod(self.step - 1, self.steps_per_epoch)
            if self.device.is_main:
                progress(f"epoch {epoch + 1}/{self.settings.epochs}", done + 1, self.steps_per_epoch)
            ends_epoch = done + 1 == self.steps_per_epoch
            stopped = self.device.any_rank(should_stop())
            late = self.device.any_rank(time.monotonic() - self._start_s > limit_s)
            if ends_epoch or (late and not stopped):
                self._publish(ends_epoch)
            elif stopped or time.monotonic() - self._saved_s > _SAVE_EVERY_S:
                self._save()
            if stopped or late or (ends_epoch and self.finished):
                break
        return self._outcome()

    def _outcome(self) -> Outcome:
        outputs, is_main, best, advice = self.outputs, self.device.is_main, self.best or {}, None
        if self.finished:
            advice = verdict(best, self.history, len(self.train_set))
            if is_main and self.step < self.steps:
                idle = self.settings.most_idle_epochs
                _log.info("stopped early: nothing has improved for %d epochs; --patience 0 goes on", idle)
        return Outcome(outputs.best, outputs.last, self.finished, tuple(self.history), best, is_main, advice)

    def restore(self) -> None:
        """Takes over the state of the run that left it. Raises WeightsError if that was another run."""
        path = self.outputs.resume
        tensors, values = load_state(path)
        check_values(path, values)
        # States from before there were these know nothing of them.
        check_same_run(path, {"freeze": None, "balance": False, **values["identity"]}, self._identity())
        try:
            self._check_progress(values)
            self.student.load_state_dict(tensors["learner"])
            self.average.module.load_state_dict(tensors["average"])
            restore_optimizer(self.optimizer, tensors.get("optimizer", {}))
            self.scaler.load_state_dict(values["scaler"])
        except (RuntimeError, KeyError, ValueError) as error:
            said = one_line(error)
            raise WeightsError(f"{path} is not the state of this run: {said}; start without --resume") from error
        self.step, self.clips, self.history, self.best = (values[n] for n in ("step", "clips", "history", "best"))
        self.sums.copy_(torch.tensor(values["sums"], dtype=torch.float64))
        self.broken.messages = {int(index): message for index, message in values["broken"].items()}
        self._earlier_s = values["seconds"]
        _log.info("resumed after step %d of %d", self.step, self.steps)

    def _check_progress(self, values: dict[str, Any]) -> None:
        """Raises ValueError for a state that no run of these settings can be in."""
        step, rows, best = values["step"], len(values["history"]), values["best"]
        unjudged = step - rows * self.steps_per_epoch  # up to an epoch: it is judged after its last step
        if step > self.steps or not 0 <= unjudged <= self.steps_per_epoch or (rows and best is None):
            raise ValueError(f"step {step} of {self.steps} with {rows} epochs done")
        if len(values["sums"]) != len(self.sums):
            raise ValueError(f"{len(values['sums'])} sums, expected {len(self.sums)}")
        if not all(index.isdecimal() and int(index) < len(self.train_set) for index in values["broken"]):
            raise ValueError("broken clips that the data does not have")

    def _batches(self) -> Iterator[Batch]:
        settings, device = self.settings, self.device
        endless = getattr(self.train_set, "endless", False)
        sampler = ResumableBatchSampler(
            clips=None if endless else len(self.train_set),
            classes=self.train_set.by_class() if settings.balance and not endless else (),
            batch=settings.batch,
            steps_per_epoch=self.steps_per_epoch,
            epochs=settings.epochs,
            seed=settings.seed,
            first=self.step,
            # Weights that know something would only forget what is hard.
            easy_first=settings.start is None,
            rank=device.rank,
            world=device.world,
        )
        pin = device.torch.type == "cuda"
        return shuffled_batches(self.train_set, sampler, settings.seed, settings.workers, pin)

    def _train_step(self, batch: Batch) -> None:
        """One step."""
        self.broken.note(batch.broken)
        if not len(batch):
            raise VlfError("not one clip of a whole batch could be read; see the messages above")
        batch = batch.to(self.device.torch)
        settings, progress = self.settings, self.step / self.steps
        # Dropout depends on the step alone, so that a resumed run needs no generator's state.
        torch.manual_seed(
            int(np.random.SeedSequence((settings.seed, self.step, self.device.rank)).generate_state(1)[0])
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, settings.peak_lr, settings.warmup)
        with self.device.cast():
            output = self.parallel(batch.clips)
            loss = self.objective(batch, output, progress)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.student.model, self.step)
        self.step += 1
        right = output.right(batch)
        sums = torch.stack([loss.detach() * len(batch), right, torch.tensor(len(batch), device=right.device)])
        self.sums += self.device.all_reduce(sums.double())
        if self.step % _CHECK_EVERY_STEPS == 0:
            self._check_finite(float(self.sums[0]))

    def _publish(self, ends_epoch: bool) -> None:
        """Judges the averaged weights; writes them, the curves and the state. A stretch that does not end its epoch
        is shown in the curves, but the resumed run judges that epoch again."""
        if ends_epoch and time.monotonic() - self._saved_s > _WORTH_S:
            self._save()
        self.device.broadcast(self.average.module.buffers())
        scores = self.validator(self.average.module)
        row = self._row(scores)
        self._check_finite(row["loss"] + row["val_loss"])
        record, history = self._record(scores), [*self.history, row]
        better = self.best is None or rank(record) > rank(self.best)
        if better:
            self.best = record
        if ends_epoch:
            self.history = history
            self.clips += row["clips"]
            self.sums.zero_()
        if self.device.is_main:
            model = plain_copy(self.average.module) if self.settings.qat else self.average.module
            for path in (self.outputs.last, *([self.outputs.best] if better else [])):
                save_weights(path, model, self.train_set.labels, record, half=self.settings.half)
            write_bytes(self.outputs.table, curves.table(history))
            write_bytes(self.outputs.picture, curves.picture(history))
            _log.info("%s%s", _line(row), " (best)" if better else "")
        self._save()

    def _save(self) -> None:
        """Writes the state that ``restore`` takes over."""
        self._saved_s = time.monotonic()
        if not self.device.is_main:
            return
        tensors = {
            "learner": self.student.state_dict(),  # so called since the first version: older states can be resumed
            "average": self.average.module.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
        }
        values = {name: getattr(self, name) for name in ("step", "clips", "history", "best", "seconds")}
        values |= {"identity": self._identity(), "scaler": self.scaler.state_dict(), "sums": self.sums.tolist()}
        save_state(self.outputs.resume, tensors, {**values, "broken": self.broken.messages})

    def _identity(self) -> dict[str, Any]:
        """What must not change between stop and resumption."""
        return {**self.settings.to_json(), "labels": list(self.train_set.labels), "clips": len(self.train_set)}

    def _row(self, scores: Scores) -> dict[str, Any]:
        """The line of the curves for the epoch under way."""
        loss, right, clips = self.sums.tolist()
        lr = self.optimizer.param_groups[0]["lr"]
        values = (len(self.history) + 1, lr, loss / clips, right / clips, scores.loss, scores.top1, int(clips))
        seconds = self.seconds - sum(row["seconds"] for row in self.history)
        return dict(zip(curves.COLUMNS, (*values, round(seconds, 2))))

    def _record(self, scores: Scores) -> dict[str, Any]:
        """What the weights written now say about their training."""
        device = self.device
        qat = {"qat": {"scales": trained_scales(self.average.module)}} if self.settings.qat else {}
        return {
            **qat,
            "data": self.settings.data,
            "model": self.student.model.sizes.name,
            "classes": len(self.train_set.labels),
            "span_s": self.train_set.span_s,
            "epochs": round(self.step / self.steps_per_epoch, 3),
            "clips": self.clips + int(self.sums[2]),
            "seed": self.settings.seed,
            "settings": self.settings.to_json(),
            "val": scores_of(scores, self.train_set.labels),
            "broken": {"training": self.broken.count(device), "validation": self.validator.broken.count(device)},
            "files": self.files,
            "arithmetic": str(device.autocast or torch.float32).removeprefix("torch."),
            "device": device.name,
            "minutes": round(self.seconds / 60, 2),
            "versions": software(),
            "command": self.command,
        }

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise VlfError(
                f"training diverged by step {self.step}: the loss is {loss}; try a smaller --lr than "
                f"{self.settings.peak_lr:g}"
            )


def _line(row: dict[str, Any]) -> str:
    return (
        f"epoch {row['epoch']}: loss {row['loss']:.4f}, train {row['train_top1']:.1%}, val loss {row['val_loss']:.4f}, "
        f"val {row['top1']:.1%}, {row['clips'] / row['seconds']:.1f} clips/s"
    )
