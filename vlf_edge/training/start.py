"""What a run starts from: the data, and a model made anew or taken from a weights file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..datasets import ClipDataset, open_dataset
from ..errors import WeightsError
from ..models import create_model, sizes_of
from ..models.model import Model
from ..models.sizes import Sizes
from ..models.weights import LoadedWeights, load_weights
from .loader import ordered_batches
from .qat import fake_quantize, measure_scales
from .settings import Settings

_CALIBRATION_CLIPS, _CALIBRATION_BATCH = 64, 16
_log = logging.getLogger(__name__)


def load_start(settings: Settings) -> LoadedWeights | None:
    """The weights file to start from, None if there is none. Raises WeightsError if it is of another model than the
    one asked for."""
    if settings.start is None:
        return None
    loaded = load_weights(settings.start)
    name = loaded.model.sizes.name
    if settings.model not in (None, name):
        raise WeightsError(
            f"--model is {settings.model}, but {settings.start} holds a {name}; leave out --model, or --from"
        )
    return loaded


def open_data(settings: Settings, loaded: LoadedWeights | None) -> tuple[ClipDataset, ClipDataset]:
    """Training and validation set in the sizes of the model. Raises VlfError for data that nothing can be learned
    from."""
    sizes = loaded.model.sizes if loaded else sizes_of(settings.name, settings.size_px, settings.frames)
    val = settings.val or settings.data
    apart = Path(val).resolve() != Path(settings.data).resolve()
    train_set = open_dataset(
        settings.data,
        "train",
        sampling=None,
        preprocess=sizes.preprocess,
        frames=sizes.frames,
        span_s=settings.span_s,
        seed=settings.seed,
        apart=apart,
        acts=settings.acts,
    )
    val_set = open_dataset(
        val,
        "val",
        sampling=None,
        preprocess=sizes.preprocess,
        frames=sizes.frames,
        span_s=train_set.span_s,
        labels=train_set.labels,
        limit=settings.val_clips,
        apart=apart,
    )
    return train_set, val_set


def make_model(settings: Settings, loaded: LoadedWeights | None, labels: Sequence[str]) -> Model:
    """The model to train, in training mode, its logits in the order of ``labels``."""
    if loaded is None:
        return create_model(
            settings.name,
            len(labels),
            backbone=settings.backbone,
            size_px=settings.size_px,
            frames=settings.frames,
            pretrained=settings.pretrained,
            backbone_weights=settings.backbone_weights,
            seed=settings.seed,
        )
    if set(loaded.labels) == set(labels):
        _reorder_head(loaded.model, [loaded.labels.index(label) for label in labels])
        return loaded.model.train()
    _log.info("head re-initialised: %d classes (%s has %d others)", len(labels), settings.start, len(loaded.labels))
    return _with_new_head(loaded.model, replace(loaded.model.sizes, classes=len(labels)), settings.seed)


def quantize_for_training(model: Model, train_set: ClipDataset, workers: int) -> None:
    """Fake quantisation with scales measured on clips spread evenly over the data."""
    count = min(_CALIBRATION_CLIPS, len(train_set))
    indices = [len(train_set) * i // count for i in range(count)]
    batches = ordered_batches(train_set, indices, _CALIBRATION_BATCH, workers)
    fake_quantize(model, measure_scales(model, (batch.clips for batch in batches if len(batch))))


@torch.no_grad()
def _reorder_head(model: Model, order: list[int]) -> None:
    for head in model.heads:
        head.weight.copy_(head.weight[order])
        head.bias.copy_(head.bias[order])


def _with_new_head(model: Model, sizes: Sizes, seed: int) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        fresh = sizes.build()
    heads = tuple(f"{name}." for name, module in fresh.named_modules() if module in fresh.heads)
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(heads)}
    fresh.load_state_dict(kept, strict=False)
    return fresh.train()
