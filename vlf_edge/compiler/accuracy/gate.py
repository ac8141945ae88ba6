"""The accuracy gate: what a plan may lose against fp32, and the fewest nodes that must go back to float for it.

Four rules, told in docs/int8.md: what fp32 decides must be worth comparing with; there must be enough windows; the plan
must lose no more than was allowed; and it must decide like fp32, whatever was allowed. The last is held with certainty:
a plan that decides otherwise in a tenth of all windows passes at most once in twenty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import AccuracyError

if TYPE_CHECKING:
    from .fidelity import Reference

_Node = TypeVar("_Node")
MIN_AGREEMENT = 0.9  # of all windows, however much accuracy may be lost
_LUCK = 0.05  # how often a rule may be passed by luck


@dataclass(frozen=True)
class Verdict:
    """How a plan stands to its gate.

    measure: "accuracy" (points of accuracy lost on windows of known class) or "agreement" (per cent of all windows that
    are decided otherwise than by fp32). windows: how many were counted. drop_points: of the worst way of running it on
    this machine, named by way; None where that gives NaN. max_drop_points: what is allowed. missing: where the loss
    could be luck, how many more windows would do if none of them were lost; else 0.
    """

    passed: bool
    measure: str
    windows: int
    drop_points: float | None
    way: str
    max_drop_points: float
    missing: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return verdict_text(asdict(self))


def verdict_text(verdict: Mapping[str, Any]) -> str:
    """A verdict, as JSON, in words."""
    if verdict["drop_points"] is None:
        return f"{verdict['way']} gives NaN or infinity"
    if verdict["measure"] == "accuracy":
        what = f"accuracy drops by {verdict['drop_points']:g} points on {verdict['way']}"
    else:
        what = f"{verdict['drop_points']:g} % of the decisions differ on {verdict['way']}"
    windows, most = verdict["windows"], verdict["max_drop_points"]
    text = f"{what}, at most {most:g} allowed ({windows} windows: one is {100 / windows:.2g})"
    # Plans of earlier versions do not say what is missing.
    missing = 0 if verdict["passed"] else verdict.get("missing", 0)
    return f"{text}; that may be luck, {missing} more held-out windows would tell" if missing else text


def check_reference(reference: Reference) -> None:
    """Refuses, before anything is built, what nothing could pass by: too few windows, or fp32 answers that are guesses.

    Raises AccuracyError.
    """
    windows, labelled = len(reference.windows), reference.labelled
    needed = windows_needed(0)
    if windows < needed:
        raise AccuracyError(
            f"too few windows to judge by: {windows} held out, at least {needed} needed, {needed - windows} missing; "
            "give --calib-data more clips (a quarter or more of them is held out; copies do not count)"
        )
    classes = reference.logits.shape[-1]
    if labelled >= needed and classes > 1:
        right = round(reference.accuracy() * labelled)
        if at_least(right, labelled, 1 / classes) > _LUCK:
            raise AccuracyError(
                f"fp32 itself decides only {right} of {labelled} windows of known class right, which guessing among "
                f"{classes} classes may do too: no plan can be judged by that; check that the clips' labels are the "
                "model's and that the weights are trained, or give the clips without labels"
            )


def judge(rows: Sequence[Mapping[str, Any]], reference: Reference, max_drop: float) -> Verdict:
    """Judges by the worst of all rows (see ``candidate.measure``): a plan may be run in any of these ways.

    Accuracy counts where enough windows have a known class (``windows_needed``), agreement elsewhere; and agreement of
    all windows is never less than MIN_AGREEMENT. Rows of ways that failed to run are passed over.
    """
    verdicts = [_judge(row, reference, max_drop) for row in rows if "end_to_end" in row]
    return max(verdicts, key=_badness)


def unsound(rows: Sequence[Mapping[str, Any]], reference: Reference) -> Verdict | None:
    """A verdict on the first way that gives NaN or infinity, where nothing else is judged; None if all are sound."""
    for row in rows:
        if any(errors.get("nonfinite") for errors in row.values() if isinstance(errors, Mapping)):
            return Verdict(False, "agreement", len(reference.windows), None, row["way"], 100.0)
    return None


def windows_needed(differ: int) -> int:
    """The fewest windows that show agreement above MIN_AGREEMENT if ``differ`` of them are decided otherwise."""
    windows = differ + 1
    while not _agrees(differ, windows):
        windows += 1
    return windows


def at_least(count: int, of: int, share: float) -> float:
    """The probability of ``count`` or more hits in ``of`` independent tries that each hit with ``share``, in (0, 1)."""
    if count <= 0:
        return 1.0
    hits = range(count, of + 1)
    logs = [
        math.lgamma(of + 1)
        - math.lgamma(k + 1)
        - math.lgamma(of - k + 1)
        + k * math.log(share)
        + (of - k) * math.log1p(-share)
        for k in hits
    ]
    return math.fsum(map(math.exp, logs))


def _judge(row: Mapping[str, Any], reference: Reference, max_drop: float) -> Verdict:
    errors, windows, labelled = row["end_to_end"], len(reference.windows), reference.labelled
    by_accuracy = labelled >= windows_needed(0)
    measure, counted = ("accuracy", labelled) if by_accuracy else ("agreement", windows)
    if unsound([row], reference) or errors["top1_agreement"] is None:
        return Verdict(False, measure, counted, None, row["way"], max_drop)
    differ = round((1 - errors["top1_agreement"]) * windows)
    lost = round((reference.accuracy() - errors["accuracy"]) * labelled) if by_accuracy else differ
    within = lost <= max_drop / 100 * counted + 1e-9
    agrees = _agrees(differ, windows)
    if within and not agrees:  # the floor is what it falls through
        missing = windows_needed(differ) - windows if differ < round((1 - MIN_AGREEMENT) * windows, 6) else 0
        most = round(100 * (1 - MIN_AGREEMENT), 2)
        return Verdict(False, "agreement", windows, round(100 * differ / windows, 2), row["way"], most, missing)
    missing = 0 if within else _missing(lost, counted, max_drop / 100)
    return Verdict(within, measure, counted, round(100 * lost / counted, 2), row["way"], max_drop, missing)


def _agrees(differ: int, windows: int) -> bool:
    """Whether a plan that decides otherwise in a share of 1 - MIN_AGREEMENT would hardly ever do this well."""
    return 1 - at_least(differ + 1, windows, 1 - MIN_AGREEMENT) <= _LUCK


def _missing(lost: int, windows: int, allowed: float) -> int:
    """How many more windows would bring the loss within what is ``allowed``, a share, if none of them were lost; 0 if
    it is so large that it is hardly luck."""
    if not 0 < allowed < 1 or at_least(lost, windows, allowed) <= _LUCK:
        return 0
    return math.ceil(lost / allowed - 1e-9) - windows


def _badness(verdict: Verdict) -> tuple[bool, bool, float]:
    drop = math.inf if verdict.drop_points is None else verdict.drop_points
    return not verdict.passed, verdict.missing == 0 and not verdict.passed, drop


def fewest(ranked: Sequence[_Node], most: int, passes: Callable[[Sequence[_Node]], bool]) -> Sequence[_Node] | None:
    """The shortest beginning of ``ranked`` that passes, of 1 to ``most`` items; None if ``most`` of them do not.

    Found by bisection: that a longer beginning passes where a shorter one does is assumed, not checked; what is
    returned did pass.
    """
    if most < 1 or not passes(ranked[:most]):
        return None
    fails, good = 0, most
    while good - fails > 1:
        middle = (fails + good) // 2
        if passes(ranked[:middle]):
            good = middle
        else:
            fails = middle
    return ranked[:good]
