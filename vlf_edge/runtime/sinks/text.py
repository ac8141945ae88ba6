"""A decision as a line of text, and as plain JSON values."""

from __future__ import annotations

from typing import Any

from ...printable import printable
from ...types import Prediction

RANDOM_WEIGHTS_NOTE = "[random weights: labels mean nothing]"


def describe(prediction: Prediction) -> str:
    """A prediction as one line of text."""
    words = [] if prediction.stream == "main" else [f"{prediction.stream:12s}"]
    words += [f"{prediction.t_end_s:9.2f} s", f"{prediction.state:8s}"]
    if prediction.label is not None:
        words += [f"{printable(prediction.label):24s} {prediction.score:6.1%}"]
    words += [f"{prediction.age_ms:7.1f} ms old"]
    if prediction.dropped:
        words += [f"{prediction.dropped} dropped"]
    if prediction.random_weights and prediction.label is not None:
        words += [RANDOM_WEIGHTS_NOTE]
    return "  ".join(words)


def to_json(prediction: Prediction) -> dict[str, Any]:
    """A prediction as plain JSON values, under the names of Prediction's fields; scores and logits are left out."""
    return {
        "stream": prediction.stream,
        "state": prediction.state,
        "label": prediction.label,
        "score": None if prediction.score is None else round(prediction.score, 6),
        "topk": [[label, round(score, 6)] for label, score in prediction.topk],
        "t_start_s": round(prediction.t_start_s, 6),
        "t_end_s": round(prediction.t_end_s, 6),
        "age_ms": round(prediction.age_ms, 3),
        "seq": prediction.seq,
        "dropped": prediction.dropped,
        "random_weights": prediction.random_weights,
    }
