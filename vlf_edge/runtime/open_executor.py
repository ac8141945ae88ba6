"""The choice of the executor that runs a plan on streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..backends.engine import Engine
from ..errors import PlanMismatch
from ..manifest import Manifest
from ..types import Sampling
from .executor import Executor
from .host_executor import HostExecutor
from .stats import Stats


def open_executor(
    manifest: Manifest,
    engines: Mapping[str, Engine],
    sampling: Sampling | None = None,
    stats: Stats | None = None,
    answer: Sequence[str] = ("logits",),
) -> Executor:
    """The best way to run these engines, {stage: engine}, on streams.

    sampling: the plan's own unless given. answer: roles of the outputs of the last stage that are wanted, side by side.
    Raises PlanMismatch for stages that make no classifier of streams, VlfError.
    """
    sampling, stats = sampling or manifest.sampling, stats or Stats()
    stages = manifest.stage_roles
    try:
        executor: Executor
        two_stage = len(stages) == 2 and not any(roles.state for roles in stages)
        if two_stage and all(engine.chains_on_gpu for engine in engines.values()):
            from .tensorrt_executor import TensorRTExecutor

            executor = TensorRTExecutor(stages, engines, sampling, stats, answer)
        else:
            executor = HostExecutor(stages, engines, sampling, stats, answer)
    except KeyError as error:
        raise PlanMismatch(f"this plan has no engine for its stage {error}") from None
    last_stage = executor.decider or executor.encoder
    last = next(spec for spec in last_stage.engine.outputs if spec.name == last_stage.output)
    if last.shape[-1] != len(manifest.classes):
        named = len(manifest.classes)
        raise PlanMismatch(f"this plan names {named} labels, but its model has {last.shape[-1]} classes")
    return executor
