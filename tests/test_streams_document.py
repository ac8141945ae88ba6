"""docs/streams.md: its examples run, and its tables name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vlf_edge.runtime.stats import COUNTS

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "streams.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
SHIPPED = Path(__file__).resolve().parents[1] / "vlf_edge" / "weights" / "vlf-tiny.plan"


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_run(number, tmp_path, monkeypatch):
    (tmp_path / "vlf.plan").symlink_to(SHIPPED)
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[number], f"docs/streams.md, example {number}", "exec"), {"__name__": "example"})


def test_every_count_is_explained():
    table = TEXT.split("## Counts")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == {*COUNTS} - {"clips"}
