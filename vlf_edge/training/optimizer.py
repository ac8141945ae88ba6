"""How weights change: AdamW, the learning rate over time, and the average that is evaluated and kept."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import nn

_BETAS = (0.9, 0.98)  # a second moment that follows the curriculum
_FIRST_LR_SHARE = 1e-2  # of the peak, at the first step of the warm-up


def make_optimizer(student: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW. Norms, biases and positions are not decayed: pulling them towards zero says nothing about complexity."""
    named = [(name, p) for name, p in student.named_parameters() if p.requires_grad]
    free = {name for name, p in named if p.ndim < 2 or name.endswith(("position", "token"))}
    groups = [
        {"params": [p for name, p in named if name not in free], "weight_decay": weight_decay},
        {"params": [p for name, p in named if name in free], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=_BETAS, fused=True)


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear over the share ``warmup`` of all steps, then a cosine that reaches zero after the last."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * max(_FIRST_LR_SHARE, step / rising)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


class WeightAverage:
    """Exponential moving average of a module's parameters and statistics: less noisy than the last step's.

    ``module`` is a copy in evaluation mode. Early on the average is shorter, so that the start is soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.module = deepcopy(module).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Takes in what ``module`` is after ``step`` (from 0)."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        for mean, value in zip(self.module.state_dict().values(), module.state_dict().values()):
            if mean.is_floating_point():
                mean.lerp_(value, weight)
            else:
                mean.copy_(value)  # counters
