"""Learning curves: a table for programs and a picture for people."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..opencv import load_cv2

COLUMNS = ("epoch", "lr", "loss", "train_top1", "val_loss", "top1", "clips", "seconds")
HEADER = ",".join(COLUMNS).encode()
_WIDTH_PX, _HEIGHT_PX = 1120, 420
_LEFT_PX, _TOP_PX, _PLOT_WIDTH_PX, _PLOT_HEIGHT_PX = 64, 48, 460, 316
_BLUE, _ORANGE, _GREY, _BLACK = (180, 110, 30), (20, 120, 230), (225, 225, 225), (40, 40, 40)  # BGR


def table(history: Sequence[Mapping[str, Any]]) -> bytes:
    """CSV with the columns COLUMNS, one row an epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _short(row[name]) for name in COLUMNS} for row in history)
    return text.getvalue().encode()


def picture(history: Sequence[Mapping[str, Any]]) -> bytes:
    """PNG: loss on the left, top-1 on the right, over epochs; training blue, validation orange."""
    image = np.full((_HEIGHT_PX, _WIDTH_PX, 3), 255, np.uint8)
    losses = [_column(history, "loss"), _column(history, "val_loss")]
    shares = [[100 * value for value in _column(history, name)] for name in ("train_top1", "top1")]
    _plot(image, _LEFT_PX, "loss", losses, 0, round_up(max(filter(math.isfinite, sum(losses, [])), default=1)))
    _plot(image, _WIDTH_PX // 2 + _LEFT_PX, "top-1, %", shares, 0, 100)
    return load_cv2().imencode(".png", image)[1].tobytes()


def _plot(image: np.ndarray, left: int, title: str, lines: list[list[float]], low: float, high: float) -> None:
    """One panel: axes with numbers, then the two lines, each named with its last value."""
    epochs = len(lines[0])

    def at(epoch: float, value: float) -> tuple[int, int]:
        x = left + (epoch - 1) / max(1, epochs - 1) * _PLOT_WIDTH_PX
        y = _TOP_PX + (1 - (value - low) / (high - low)) * _PLOT_HEIGHT_PX
        return round(x), round(y)

    cv2 = load_cv2()
    _text(image, title, (left, 24), _BLACK, bold=True)
    for value in np.linspace(low, high, 6):
        end = at(epochs, value) if epochs > 1 else (left + _PLOT_WIDTH_PX, at(1, value)[1])
        cv2.line(image, at(1, value), end, _GREY, 1)
        _text(image, f"{value:.3g}", (left - 46, at(1, value)[1] + 4), _BLACK)
    for epoch in sorted({round(e) for e in np.linspace(1, epochs, min(epochs, 9))}):
        _text(image, str(epoch), (at(epoch, low)[0] - 8, _TOP_PX + _PLOT_HEIGHT_PX + 20), _BLACK)
    _text(image, "epoch", (left + _PLOT_WIDTH_PX // 2 - 20, _HEIGHT_PX - 14), _BLACK)
    for name, values, colour, x in zip(("training", "validation"), lines, (_BLUE, _ORANGE), (130, 290)):
        points = [at(i + 1, min(max(value, low), high)) for i, value in enumerate(values) if math.isfinite(value)]
        cv2.polylines(image, [np.array(points, np.int32).reshape(-1, 1, 2)], False, colour, 2, cv2.LINE_AA)
        for point in points if len(points) <= 40 else points[-1:]:
            cv2.circle(image, point, 3, colour, -1, cv2.LINE_AA)
        _text(image, f"{name} {values[-1]:.3g}", (left + x, 24), colour, bold=True)


def _text(image: np.ndarray, text: str, place: tuple[int, int], colour: tuple, bold: bool = False) -> None:
    cv2 = load_cv2()
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5 if bold else 0.42, colour, 1, cv2.LINE_AA)


def _column(history: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [float(row[name]) for row in history]


def round_up(value: float) -> float:
    """The next readable number: a fifth of it, the distance of two lines, has few digits too."""
    scale = 10 ** math.floor(math.log10(max(value, 1e-6)))
    return next(step * scale for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * scale >= value)


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
