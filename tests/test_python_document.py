"""docs/python.md: its examples run, one after the other, on clips of a folder; and the front door has types."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest
from toy_clips import LABELS, write_clips

import vlf_edge
from vlf_edge.compiler.accuracy import gate

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text()


@pytest.mark.slow
def test_the_examples_run_one_after_the_other(tmp_path, monkeypatch):
    write_clips(tmp_path / "my-clips", per_class=18)  # enough to calibrate on, and to judge by
    (tmp_path / "my-clips" / LABELS[0]).rename(tmp_path / "my-clips" / "wave")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gate, "MIN_AGREEMENT", 0.01)  # else a build of so little seeks for long what to leave in float
    found: dict = {"__name__": "example"}
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)):
        exec(compile(code, f"docs/python.md, example {number}", "exec"), found)
    assert found["plan"].manifest.precision == "int8" and "wave" in found["plan"].manifest.labels
    assert found["report"]["clips"] in range(8, 20) and found["prediction"].label in found["plan"].manifest.labels
    assert (tmp_path / "my.html").is_file()


def test_type_checkers_find_what_the_front_door_has():
    assert (ROOT / "vlf_edge" / "py.typed").is_file()
    stub = ast.parse((ROOT / "vlf_edge" / "__init__.pyi").read_text())
    named = {node.names[0].asname: node for node in stub.body if isinstance(node, ast.ImportFrom)}
    assert named.keys() == {*vlf_edge.__all__}
    for name, node in named.items():
        module = importlib.import_module(f"vlf_edge.{node.module}")
        assert getattr(module, node.names[0].name) is getattr(vlf_edge, name), name
