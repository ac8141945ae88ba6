"""docs/streams.md and docs/reliability.md: their examples run, and their tables name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from vlf_edge import Runtime
from vlf_edge.runtime.stats import COUNTS
from vlf_edge.types import Prediction

ROOT = Path(__file__).resolve().parents[1]
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()
EXAMPLES = [
    pytest.param(code, id=f"{page} {number}")
    for page in ("streams.md", "reliability.md")
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL))
]
SHIPPED = ROOT / "vlf_edge" / "weights" / "vlf-tiny.plan"


def table_of(section: str, first: str) -> list[str]:
    """The first words of the rows of the table whose header begins so."""
    text = RELIABILITY.split(f"## {section}\n")[1].split("\n## ")[0].split(f"| {first} |")[1].split("\n\n")[0]
    return [word for cell in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for word in re.findall(r"`(.+?)`", cell)]


@pytest.mark.parametrize("code", EXAMPLES)
def test_examples_run(code, tmp_path, monkeypatch):
    (tmp_path / "vlf.plan").symlink_to(SHIPPED)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs, example", "exec"), {"__name__": "example"})


def test_every_count_and_state_is_explained():
    assert set(table_of("Accounting", "count")) == {*COUNTS}
    states = set(re.findall(r'"(\w+)" \(', Prediction.__doc__)) | {"ok"}
    assert set(table_of("States", "state")) == states


def test_every_figure_is_explained(toy_plan, images):
    with Runtime(toy_plan, backend="fake") as runtime:
        list(runtime.stream([(np.array(image), i / 4) for i, image in enumerate(images[:6])]))
        stats = runtime.stats()
    told = set(table_of("Accounting", "key"))
    stream = stats["streams"]["main"]
    assert told >= {"backend", "counts", "labels", "ms", *(f"process.{key}" for key in stats["process"])}
    assert {f"streams.NAME.{key}" for key in stream} <= told | {"streams.NAME.labels", "streams.NAME.ms"}
    assert {*stats["ms"], *stream["ms"]} <= set(table_of("Accounting", "kind"))


def test_every_fault_is_held_by_a_test():
    named = set(re.findall(r"`(tests/\w+\.py)` ?[|,]", RELIABILITY))
    assert len(named) >= 5 and all((ROOT / path).is_file() for path in named)
