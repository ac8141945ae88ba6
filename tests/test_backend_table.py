"""One table of backends: every row holds, and nobody retypes it."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

import vlf_edge
from vlf_edge.backends.engine import Engine
from vlf_edge.backends.table import CPU_BACKENDS, GPU_BACKENDS, NAMES, TABLE

PACKAGE = Path(vlf_edge.__file__).parent


@pytest.mark.parametrize("name", TABLE)
def test_every_row_names_an_engine_in_a_file_of_its_own(name):
    backend = TABLE[name]
    file = name if backend.runs == "graphs" else "tensorrt"  # both of NVIDIA's libraries are one file
    assert issubclass(getattr(import_module(f"vlf_edge.backends.{file}"), backend.engine), Engine)
    assert bool(backend.install) == (name in NAMES)


def test_the_order_is_gpus_first():
    assert NAMES == (*GPU_BACKENDS, *CPU_BACKENDS) and {*NAMES, "fake"} == {*TABLE}


def test_nobody_lists_backends_a_second_time():
    """Two names of backends in one literal sequence are a list that a new backend would be missing from."""
    names = "|".join(NAMES)
    sequence = re.compile(rf"[\"']({names})[\"'],\s*[\"'](?!\1)(?:{names})[\"']")
    for path in PACKAGE.rglob("*.py"):
        lists = sequence.findall(path.read_text())
        allowed = {
            "export/engines.py",
            "compiler/builder.py",
            "compiler/quantization/convert.py",
            "compiler/torch_tensorrt.py",
        }
        assert not lists or str(path.relative_to(PACKAGE)) in allowed, f"{path}: {lists}"
