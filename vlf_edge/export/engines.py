"""The engines of a plan as files: raw bytes, as trtexec and DeepStream load them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from functools import partial

from ..errors import PlanMismatch
from ..manifest import EngineInfo
from ..plan import Plan
from .contract import README, about, readme, tensors
from .folder import Folder, safe_name

_NOTE = (
    "An engine runs with the library and version, and on the GPUs, that it was built for: one of TensorRT-RTX not with "
    "TensorRT, nor the other way round. The axis N is any batch from 1 to the largest named above."
)


def raw_folder(plan: Plan, target: str | None = None) -> Folder:
    """<target>/<member> for each engine, vlf.json and README.txt.

    target: only the engines of this one. Raises PlanMismatch if there are none.
    """
    engines = {f"{target_folder(engine)}/{engine.member}": engine for engine in engines_of(plan, target)}
    lines = [f"{name}: the {engine.stage} stage, {built_for(engine)}" for name, engine in engines.items()]
    return Folder(
        files={
            README: partial(readme, plan, "typed", lines, _NOTE),
            **{name: partial(plan.read, engine.member) for name, engine in engines.items()},
        },
        about={
            **about(plan),
            "engines": [
                {
                    "file": name,
                    **{field: value for field, value in asdict(engine).items() if field != "member"},
                    "inputs": tensors(plan.manifest.graph(engine.stage, "typed").inputs),
                    "outputs": tensors(plan.manifest.graph(engine.stage, "typed").outputs),
                }
                for name, engine in engines.items()
            ],
        },
    )


def engines_of(plan: Plan, target: str | None = None) -> list[EngineInfo]:
    """The plan's engines, or those of one target, or ("tensorrt") of one library.

    Raises PlanMismatch, naming what to build, if there are none.
    """
    engines = [engine for engine in plan.manifest.engines if target in (None, engine.target, engine.library)]
    if engines:
        return engines
    what = f"no engine of target {target!r}" if target else "no engines"
    raise PlanMismatch(
        f"{plan.path} holds {what}, available: {targets_of(plan.manifest.engines) or 'none'}; "
        f"add one with: vlf-edge build {plan.path} --target {_buildable(target or 'TARGET')}"
    )


def _buildable(target: str) -> str:
    """What to ask ``vlf-edge build`` for, on a machine with that GPU."""
    return {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}.get(target.split(":")[0], target)


def targets_of(engines: Iterable[EngineInfo]) -> str:
    """Their targets, each once, for messages; "" for no engines."""
    return ", ".join(dict.fromkeys(engine.target for engine in engines))


def target_folder(engine: EngineInfo) -> str:
    """Name of the folder for engines of this target."""
    return safe_name(engine.target.replace(":", "-"))


def built_for(engine: EngineInfo) -> str:
    """Library, version, GPUs and largest batch of an engine, in words."""
    where = f" on {engine.device}" if engine.device else ""
    capabilities = ", ".join(engine.compute_capabilities)
    return (
        f"{engine.library} {engine.version}, built{where} for compute capability {capabilities}, "
        f"batch 1 to {engine.max_batch}"
    )
