"""How long a run waits for what: the time limits of cameras, decisions and engines."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import check_options, option


@dataclass(frozen=True)
class Limits:
    """The time limits of a run. Raises VlfError for values out of range."""

    stall_timeout_s: float = option(
        5.0,
        "a camera that gives no frame for so long has no signal, and is opened anew (default: 5)",
        metavar="S",
        flags=("--stall-timeout",),
        above=0,
        most=3600,
    )
    max_retries: int | None = option(
        None,
        "give a camera up after so many tries in a row to open it again; 0: at its first failure (default: never)",
        metavar="N",
        flags=("--max-retries",),
        least=0,
    )
    max_staleness_s: float | None = option(
        None,
        "a decision later than this after its frame was captured is stale and loses its label (default: no limit)",
        metavar="S",
        flags=("--max-staleness",),
        above=0,
        most=3600,
    )
    budget_ms: float | None = option(
        None,
        "count the decisions that come later than this after their frame was captured",
        metavar="MS",
        flags=("--budget-ms",),
        above=0,
        most=3_600_000,
    )
    engine_timeout_s: float = option(
        15.0,
        "an engine that is at work on one batch for so long hangs, and ends the run (default: 15)",
        metavar="S",
        flags=("--engine-timeout",),
        above=0,
        most=3600,
    )

    def __post_init__(self) -> None:
        check_options(self)
