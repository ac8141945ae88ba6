"""Training, from beginning to end: start reading here, go on with ``trainer``."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..errors import VlfError
from ..models.weights import load_weights
from .checkpoint import Outputs, write_bytes
from .device import acquire_device
from .judgement import judge
from .report import Run, page
from .settings import Settings
from .start import load_start, make_model, open_data, quantize_for_training
from .trainer import Outcome, Progress, Trainer

_MOST_WORKERS = 16
# Of each process: a few hundred short clips, as small as vlf-tiny takes them, are decoded once.
_KEPT_BYTES = 1 << 29
_log = logging.getLogger(__name__)


def train(
    settings: Settings,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    command: str = "",
) -> Outcome:
    """Trains a model; writes weights, curves and the state to resume from after every epoch, and a report at the end.

    resume: go on from where a run of the same settings stopped or was killed; the result is the same as without the
    interruption. progress: called with (what, done, total). should_stop: asked after every step; True saves the state
    and returns. command: the command line, for the record. Raises VlfError for what the user can mend.
    """
    outputs = Outputs(Path(settings.out))
    with acquire_device(settings.threads) as device:
        if device.is_main:
            outputs.check(settings.inputs)
        if settings.batch % device.world:
            raise VlfError(f"--batch is {settings.batch}; expected a multiple of the {device.world} processes")
        if settings.workers is None:
            settings = replace(settings, workers=min(_MOST_WORKERS, device.cores))
        loaded = load_start(settings)
        train_set, val_set = open_data(settings, loaded)
        if train_set.keep(_KEPT_BYTES, device.cores):
            _log.info("all %d training clips are kept in memory", len(train_set))
        model = make_model(settings, loaded, train_set.labels)
        if settings.qat:
            device = replace(device, autocast=None)
            quantize_for_training(model, train_set, settings.workers)
        trainer = Trainer(settings, device, outputs, model, train_set, val_set, command)
        if resume:
            trainer.restore()
        outcome = trainer.fit(progress or _ignore, should_stop or _never)
        if outcome.finished and outcome.is_main:
            _report(trainer, outcome, progress or _ignore)
        return outcome


def _report(trainer: Trainer, outcome: Outcome, progress: Progress) -> None:
    """Judges the best weights once more, clip by clip, and writes what there is to read."""
    settings, learn, val = trainer.settings, trainer.train_set, trainer.validator.dataset
    model = load_weights(outcome.best).model.to(trainer.device.torch).eval()
    judgement = judge(
        model, val, trainer.device, settings.batch, settings.workers, lambda *done: progress("report", *done)
    )
    endless = getattr(learn, "endless", False)
    counts = Counter() if endless else Counter(clip.label for clip in learn.clips)
    report = Run(
        weights=outcome.best.name,
        record=outcome.record,
        history=outcome.history,
        labels=learn.labels,
        span_s=learn.span_s,
        learned_from=None if endless else [counts[i] for i in range(len(learn.labels))],
        judgement=judgement,
        advice=outcome.advice,
    )
    write_bytes(trainer.outputs.report, page(report))
    _log.info("the report is %s", trainer.outputs.report)


def _ignore(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def _never() -> bool:
    return False
