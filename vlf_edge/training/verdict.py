"""What the learning curves say: when to stop, and whether anything was learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

# Of a normal distribution: luck alone exceeds so many standard deviations once in twenty times.
_LUCK = 1.645


def has_stalled(history: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """True if validation was neither more accurate nor of less loss than ever before in the last ``patience`` epochs;
    patience 0: never."""
    if not patience or len(history) <= patience:
        return False
    before, lately = history[:-patience], history[-patience:]
    more_accurate = max(row["top1"] for row in lately) > max(row["top1"] for row in before)
    return not more_accurate and min(row["val_loss"] for row in lately) >= min(row["val_loss"] for row in before)


def is_guessing(share: float, clips: int, chance: float) -> bool:
    """True if ``share`` right of so many clips is what luck may give to one who always says the most frequent class,
    which is right of the share ``chance``."""
    return share * clips <= chance * clips + _LUCK * math.sqrt(chance * (1 - chance) * clips)


def verdict(record: Mapping[str, Any], history: Sequence[Mapping[str, Any]], clips: int) -> str | None:
    """What is wrong with weights that plainly have not learned, and what to do; None if nothing is.

    record: of the best weights. history: rows of all epochs, one at least. clips: in the training set.
    """
    val, settings = record["val"], record["settings"]
    if not is_guessing(val["top1"], val["clips"], val["chance"]):
        return None
    most = "each class counts for" if settings.get("balance") else "the most frequent class is"
    said = (
        f"it has not learned: {val['top1']:.0%} of {val['clips']} validation clips is what guessing gives "
        f"({most} {val['chance']:.0%} of them)"
    )
    seen = max(row["train_top1"] for row in history)
    if is_guessing(seen, history[-1]["clips"], val["chance"]) or seen < 2 * val["chance"]:
        longer = f"--epochs {2 * settings['epochs']} or --lr {_round_up(2 * settings['lr']):g}"
        start = "" if settings["start"] else ", --from vlf-tiny"
        return (
            f"{said}, and of the training clips it knows {seen:.0%}. Try {longer}{start}; see whether the labels are "
            f"right and whether what they name happens within --span {record['span_s']:g} s"
        )
    start = "" if settings["start"] else "start --from vlf-tiny, and "
    return (
        f"{said}, although of the training clips it knows {seen:.0%}: it learns these {clips} clips by heart. To do: "
        f"{start}add clips, of other people and places than those there are"
    )


def _round_up(value: float) -> float:
    """To one digit."""
    scale = 10 ** math.floor(math.log10(value))
    return math.ceil(round(value / scale, 6)) * scale
