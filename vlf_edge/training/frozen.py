"""A stage that stays as it is while the rest of its model learns."""

from __future__ import annotations

from ..errors import VlfError
from ..models.vlf import VLF


def freeze_stage(model: VLF, name: str) -> None:
    """Takes the stage of this name out of training: no gradients, no dropout, statistics of BatchNorm as they are.

    To be called after the last ``train()`` of the model, which would set its normalisation going again. Raises VlfError
    if the model has no stage of that name, or none beside it.
    """
    stages = {stage.name: stage.module for stage in model.stages()}
    if name not in stages or len(stages) == 1:
        raise VlfError(f"{model.sizes.name} has the stages {', '.join(stages)}; leave out --freeze {name}")
    stages[name].eval().requires_grad_(False)
