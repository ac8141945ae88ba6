"""What makes an event of decisions, in one frozen value. docs/events.md says how to choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import VlfError
from ..options import check_options, option

# Labels that mean that nothing happens, as data sets call them, or nothing that the plan was taught; "-" and "_" are as
# good as a space.
NOTHING = ("still", "none", "nothing", "background", "no action", "idle", "other", "negative", "unknown")


_MOST = 0.999  # no average ever reaches 1


@dataclass(frozen=True)
class EventSettings:
    """When decisions make an event; each field with its option on the command line.

    thresholds: {label: probability}, or ("LABEL=VALUE", ...) as on the command line. leave: of labels with a threshold
    of their own, as much less than it as ``leave`` is less than ``threshold``. ignore: labels that open nothing; None:
    those of the plan that mean "nothing" (``NOTHING``). gap_s: None is two spans of the window.
    Raises VlfError for values that make no events.
    """

    threshold: float = option(
        0.7,
        "smoothed probability that begins an event (default: 0.7)",
        "P",
        flags=("--event-threshold",),
        above=0,
        most=_MOST,
    )
    thresholds: tuple[str, ...] | Mapping[str, float] = option(
        (), "thresholds of single labels, such as wave=0.8", "LABEL=P", flags=("--event-thresholds",)
    )
    leave: float = option(
        0.3,
        "smoothed probability below which it ends (default: 0.3)",
        "P",
        flags=("--event-leave",),
        above=0,
        most=_MOST,
    )
    smooth_s: float = option(
        0.25, "time constant of the smoothing (default: 0.25)", "S", flags=("--event-smooth",), least=0, most=3600
    )
    min_s: float = option(
        0.75, "what lasts less long is no event (default: 0.75)", "S", flags=("--event-min",), least=0, most=3600
    )
    cooldown_s: float = option(
        0.0,
        "least time from the end of an event to the next of that label (default: 0)",
        "S",
        flags=("--event-cooldown",),
        least=0,
        most=1_000_000,
    )
    ignore: tuple[str, ...] | None = option(
        None,
        "labels that make no event (default: those that say that nothing happens, such as still, none, nothing)",
        "LABEL",
        flags=("--event-ignore",),
    )
    gap_s: float | None = option(
        None,
        "an event ends if there is no decision for so long (default: twice the plan's span)",
        "S",
        flags=("--event-gap",),
        above=0,
        most=1_000_000,
    )
    start_lag: float = option(
        0.44,
        "of a window, how much shows an action when its decision turns to that (default: 0.44)",
        "SHARE",
        flags=("--event-start-lag",),
        least=0,
        most=1,
    )
    end_lag: float = option(
        0.48,
        "of a window, how much shows what follows an action when its decision turns from that (default: 0.48)",
        "SHARE",
        flags=("--event-end-lag",),
        least=0,
        most=1,
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.leave > self.threshold:
            raise VlfError(f"--event-leave is {self.leave:g}; expected at most --event-threshold, {self.threshold:g}")
        for label, value in self.threshold_of.items():
            if not 0 < value <= _MOST:
                raise VlfError(
                    f"--event-thresholds: {label}={value:g}; expected a probability above 0 and at most {_MOST}"
                )

    @property
    def threshold_of(self) -> dict[str, float]:
        """``thresholds`` as {label: probability}. Raises VlfError for a text that is none."""
        if isinstance(self.thresholds, Mapping):
            return dict(self.thresholds)
        pairs = [text.rpartition("=") for text in self.thresholds]
        try:
            return {label.strip(): float(value) for label, _, value in pairs}
        except ValueError:
            raise VlfError(
                f"--event-thresholds is {' '.join(self.thresholds)}; expected LABEL=P, such as wave=0.8"
            ) from None


def nothing_in(labels: Sequence[str]) -> tuple[str, ...]:
    """Those of the labels that mean that nothing happens."""
    return tuple(label for label in labels if label.casefold().replace("-", " ").replace("_", " ") in NOTHING)
