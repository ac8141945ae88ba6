"""Training, from beginning to end: start reading here, go on with ``run``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..errors import VlfError
from .checkpoint import Outputs
from .device import acquire_device
from .run import Outcome, Progress, Run
from .settings import Settings
from .start import load_start, make_model, open_data, quantize_for_training

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
    """Trains a model; writes weights, curves and the state to resume from after every epoch.

    resume: go on from where a run of the same settings stopped or was killed; the result is the same as without the
    interruption. progress: called with (what, done, total). should_stop: asked after every step; True saves the state
    and returns. command: the command line, for the record. Raises VlfError for what the user can mend.
    """
    outputs = Outputs(Path(settings.out))
    with acquire_device() as device:
        if device.leads:
            outputs.check(settings.inputs)
        if settings.batch % device.world:
            raise VlfError(f"--batch is {settings.batch}; expected a multiple of the {device.world} processes")
        if settings.workers is None:
            settings = replace(settings, workers=min(_MOST_WORKERS, device.cores))
        loaded = load_start(settings)
        learn, judge = open_data(settings, loaded)
        if learn.keep(_KEPT_BYTES, device.cores):
            _log.info("all %d training clips are kept in memory", len(learn))
        model = make_model(settings, loaded, learn.labels)
        if settings.qat:
            device = replace(device, autocast=None)
            quantize_for_training(model, learn, settings.workers)
        run = Run(settings, device, outputs, model, learn, judge, command)
        if resume:
            run.restore()
        return run.go(progress or _ignore, should_stop or _never)


def _ignore(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def _never() -> bool:
    return False
