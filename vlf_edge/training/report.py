"""A finished run as one HTML file: no scripts, nothing fetched, legible in light and dark and to screen readers."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from ..opencv import load_cv2
from ..printable import printable
from .curves import round_up
from .judgement import Answer, Judgement

BEGINNING = b"<!doctype html>\n<!-- A training report of vlf-edge. -->"
_MATRIX_CLASSES = 40  # with more, only what was mistaken most often is shown
_PAIRS_SHOWN = 30
_PALEST, _FULLEST = 12, 60  # per cent of colour in a cell: so that the text keeps its contrast in light and dark
_JPEG_QUALITY = 82
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 480, 260, 44, 14, 12, 34  # of a chart, in its own units
# Nothing but what the file itself holds, and no script: whatever a label or the name of a clip may say.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Run:
    """What a report tells. weights: name of their file. record: what they say of their training. history: rows of the
    curves. labels, span_s: of the data. learned_from: clips of each class in training, None if it never ended.
    judgement: of the validation clips. advice: what is wrong with the run, or None."""

    weights: str
    record: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    labels: Sequence[str]
    span_s: float
    learned_from: Sequence[int] | None
    judgement: Judgement
    advice: str | None = None


def page(run: Run) -> bytes:
    """The report, UTF-8."""
    style = (files(__package__) / "report.css").read_text(encoding="utf-8")
    body = "\n".join([_head(run), _curves(run), _confusion(run), _classes(run), _films(run), _settings(run)])
    return (
        f"{BEGINNING.decode()}\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{_text(run.weights)}: training report</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<style>\n{style}</style></head>\n<body>\n<main>\n{body}\n</main>\n</body></html>\n"
    ).encode()


def _head(run: Run) -> str:
    record, confusion = run.record, run.judgement.confusion
    right, clips = int(confusion.trace()), int(confusion.sum())
    facts = {
        "Validation": f"{right} of {clips} clips right, {right / max(1, clips):.1%}",
        "Mean recall of the classes": _percent(_mean_recall(confusion)),
        "Model": record["model"],
        "Data": record["data"],
        "A window": f"{run.span_s:g} s",
        "Kept": f"the weights after epoch {record['epochs']:g} of {len(run.history)}",
        "Seen": f"{record['clips']} clips",
        "Time": f"{record['minutes']:g} minutes on {record['device']}",
    }
    broken = sum(record["broken"].values())
    if broken:
        facts["Not readable"] = f"{broken} clips"
    said = f"{run.advice[0].upper()}{run.advice[1:]}" if run.advice else ""
    advice = f'<p class="advice">{_text(said)}</p>' if said else ""
    rows = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts.items())
    head = f'<p class="soft">Training report</p>\n<h1>{_text(run.weights)}</h1>\n{advice}'
    return f'{head}<section><h2>The run</h2><dl class="facts">{rows}</dl></section>'


def _curves(run: Run) -> str:
    rows, best = run.history, run.record["epochs"]
    loss = [[float(row[name]) for row in rows] for name in ("loss", "val_loss")]
    share = [[100 * float(row[name]) for row in rows] for name in ("train_top1", "top1")]
    highest = round_up(max(filter(math.isfinite, sum(loss, [])), default=1))
    what = "mean recall" if run.record["settings"].get("balance") else "top-1"
    charts = [
        _chart("Loss", loss, highest, best, ".3g"),
        _chart(f"Right, % (validation: {what})", share, 100.0, best, ".1f"),
    ]
    table = "".join(
        f'<tr><th scope="row">{row["epoch"]}</th><td>{row["loss"]:.4f}</td><td>{row["val_loss"]:.4f}</td>'
        f"<td>{row['train_top1']:.1%}</td><td>{row['top1']:.1%}</td><td>{row['lr']:.2g}</td></tr>"
        for row in rows
    )
    heads = ("epoch", "loss", "validation loss", "training right", "validation right", "learning rate")
    keys = (f'<span class="{name}"><span class="key"></span>{name}</span>' for name in ("training", "validation"))
    return (
        f'<section><h2>Learning curves</h2><p class="keys">{"".join(keys)}</p>'
        f'<div class="curves">{"".join(charts)}</div>'
        '<p class="soft">The dotted line is the epoch whose weights were kept. Training clips are changed anew each '
        "time they are seen, validation clips never; so validation may look better.</p>"
        f"<details><summary>The numbers</summary>{_table('Every epoch', heads, table)}</details></section>"
    )


def _chart(title: str, lines: list[list[float]], high: float, best: float, digits: str) -> str:
    """SVG of training and validation over epochs, from 0 to ``high``."""
    epochs = len(lines[0])

    def x(epoch: float) -> float:
        return _LEFT + (epoch - 1) / max(1, epochs - 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _TOP + (1 - value / high) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for value in np.linspace(0, high, 6):
        level = y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for epoch in sorted({round(e) for e in np.linspace(1, epochs, min(epochs, 9))}):
        parts.append(f'<text x="{x(epoch):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{epoch}</text>')
    parts.append(f'<line class="best" x1="{x(best):.1f}" x2="{x(best):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
    for name, values in zip(("training", "validation"), lines):
        points = [(x(i + 1), y(min(value, high))) for i, value in enumerate(values) if math.isfinite(value)]
        told = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline class="{name}" points="{told}"/>')
        parts += [f'<circle class="{name}" cx="{px:.1f}" cy="{py:.1f}" r="3.5"/>' for px, py in points[-1:]]
    said = f"{title} over {epochs} epochs: " + ", ".join(
        f"{name} from {values[0]:{digits}} to {values[-1]:{digits}}"
        for name, values in zip(("training", "validation"), lines)
    )
    return (
        f'<figure><figcaption>{_text(title)} over epochs</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{_text(said)}">{"".join(parts)}</svg></figure>'
    )


def _confusion(run: Run) -> str:
    confusion, labels = run.judgement.confusion, run.labels
    counts = confusion.sum(axis=1)
    if len(labels) > _MATRIX_CLASSES:
        pairs = [(int(confusion[i, j]), i, j) for i, j in np.argwhere(confusion) if i != j]
        rows = "".join(
            f"<tr><td>{_text(labels[i])}</td><td>{_text(labels[j])}</td><td>{count} of {counts[i]}</td></tr>"
            for count, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))[:_PAIRS_SHOWN]
        )
        caption = f"What was taken for something else most often, of {len(labels)} classes"
        return f"<section><h2>Confusion</h2>{_table(caption, ('truth', 'decided', 'clips'), rows)}</section>"
    rows = ""
    for i, label in enumerate(labels):
        cells = "".join(_cell(int(confusion[i, j]), int(counts[i]), i == j) for j in range(len(labels)))
        rows += f'<tr><th scope="row">{_text(label)}</th>{cells}</tr>'
    caption = "Validation clips: a row for what they show, a column for what the model decided."
    return f"<section><h2>Confusion</h2>{_table(caption, ('', *labels), rows, 'confusion')}</section>"


def _cell(count: int, total: int, right: bool) -> str:
    if not count:
        return "<td></td>"
    share = count / total
    colour = _PALEST + (_FULLEST - _PALEST) * share
    return f'<td class="{"right" if right else "mistaken"}" style="--share:{colour:.0f}%">{count}</td>'


def _classes(run: Run) -> str:
    confusion = run.judgement.confusion
    of_truth, of_decided = confusion.sum(axis=1), confusion.sum(axis=0)
    mean, rows = _mean_recall(confusion), ""
    for i, label in enumerate(run.labels):
        recall = confusion[i, i] / of_truth[i] if of_truth[i] else None
        precision = confusion[i, i] / of_decided[i] if of_decided[i] else None
        others = np.where(np.arange(len(run.labels)) == i, 0, confusion[i])
        taken = f"{_text(run.labels[int(others.argmax())])} ({others.max()})" if others.any() else ""
        low = ' class="low"' if recall is not None and recall < mean - 0.1 else ""
        seen = "" if run.learned_from is None else f"<td>{run.learned_from[i]}</td>"
        rows += (
            f'<tr><th scope="row">{_text(label)}</th>{seen}<td>{of_truth[i]}</td><td{low}>{_percent(recall)}</td>'
            f"<td>{_percent(precision)}</td><td>{taken}</td></tr>"
        )
    seen = () if run.learned_from is None else ("training clips",)
    heads = ("class", *seen, "validation clips", "recall", "precision", "most often taken for")
    uneven = run.learned_from and max(run.learned_from) > 3 * min(run.learned_from)
    hint = ""
    if uneven and not run.record["settings"].get("balance"):
        hint = "<p>Some classes have three times the clips of others: <code>--balance</code> draws them alike.</p>"
    caption = (
        "Recall: share of a class's clips that were recognised. Precision: share of its decisions that were right."
    )
    return f"<section><h2>Classes</h2>{hint}{_table(caption, heads, rows)}</section>"


def _films(run: Run) -> str:
    worst = run.judgement.worst
    wrong = sum(answer.truth != answer.decided for answer in worst)
    films = "".join(_film(answer, run) for answer in worst)
    return (
        "<section><h2>Worst clips</h2><p>The validation clips whose true class got the least probability, the worst "
        f"first: {wrong} of these {len(worst)} were decided wrongly. Each film is what the model saw, all of it. Does "
        "it show the action? Is the label right?</p>"
        '<input type="checkbox" id="play" checked><label for="play">Play the films</label>'
        f'<ul class="films">{films}</ul></section>'
    )


def _film(answer: Answer, run: Run) -> str:
    count, height, width = answer.frames.shape[:3]
    strip = np.ascontiguousarray(np.concatenate(list(answer.frames), axis=1))
    cv2 = load_cv2()
    _, data = cv2.imencode(".jpg", strip, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
    url = f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
    truth, decided = run.labels[answer.truth], run.labels[answer.decided]
    right = answer.truth == answer.decided
    said = f"{answer.decided_share:.0%} {decided}" + ("" if right else f", {answer.truth_share:.0%} {truth}")
    return (
        f'<li><div class="film" role="img" aria-label="{_text(f"{count} frames of {truth}")}" style="--frames:{count};'
        f'--shape:{width / height:.4f};--seconds:{run.span_s:.3g}s;--strip:url({url})"></div>'
        f'<p><strong>{_text(truth)}</strong> <span class="{"right-answer" if right else "wrong"}">'
        f'{"right" if right else "wrong"}</span>: {_text(said)}</p><p class="soft">{_text(answer.name)}</p></li>'
    )


def _settings(run: Run) -> str:
    record = run.record
    told = {**record["settings"], **{f"version of {name}": value for name, value in record["versions"].items()}}
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>'
        for name, value in told.items()
        if value not in (None, [], False)
    )
    command = f"<p>It was made by</p><pre>{_text(record['command'])}</pre>" if record["command"] else ""
    build = f"vlf-edge build --precision int8 --weights {run.weights} --calib-data {record['data']}"
    return (
        f"<section><h2>From here</h2><p>A plan that cameras run on:</p><pre>{_text(build)}</pre>{command}"
        f"<details><summary>All settings</summary>{_table('Settings and versions', ('', 'value'), rows)}</details>"
        "</section>"
    )


def _table(caption: str, heads: Sequence[str], rows: str, kind: str = "plain") -> str:
    """A table that scrolls by itself where it is too wide, with the keyboard too."""
    cells = "".join(f'<th scope="col">{_text(head)}</th>' if head else "<td></td>" for head in heads)
    return (
        f'<p class="soft">{_text(caption)}</p><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{_text(caption)}"><table class="{kind}">'
        f"<thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _mean_recall(confusion: np.ndarray) -> float:
    counts = confusion.sum(axis=1)
    return float((confusion.diagonal()[counts > 0] / counts[counts > 0]).mean()) if counts.any() else 0.0


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _text(value: object) -> str:
    """Safe between tags and in attributes: labels and names of files come from strangers."""
    return escape(printable(value))
