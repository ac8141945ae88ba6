"""Text of files cannot steer a terminal, whichever border it crosses."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from conftest import toy_graph, toy_manifest

from vlf_edge import Plan, Prediction, VlfError
from vlf_edge.backends import gpu_engines
from vlf_edge.cli import main
from vlf_edge.commands.progress import Progress
from vlf_edge.datasets.annotations import few
from vlf_edge.evaluation.picture import draw_confusion
from vlf_edge.manifest import EngineInfo
from vlf_edge.printable import printable
from vlf_edge.runtime.sinks import annotate, describe

EVIL = "\x1b]0;owned\x07\r\n\x9b2J\u202eevil"
SHOWN = "\\x1b]0;owned\\x07\\r\\n\\x9b2J\\u202eevil"


def test_every_character_that_does_not_print_is_escaped():
    assert printable("wave, Grüße, 挥手, C:\\x") == "wave, Grüße, 挥手, C:\\x"
    assert printable(EVIL) == SHOWN and printable("\udcff\x7f\u2028") == "\\udcff\\x7f\\u2028"
    assert printable("one\ntwo\t", keep="\n") == "one\ntwo\\t" and printable(5) == "5"


def test_errors_are_one_line():
    assert str(VlfError(f"no plan at {EVIL}")) == f"no plan at {SHOWN}"


def evil_plan(path):
    """A plan with control characters wherever one may have them: a plan's names may not."""
    manifest = toy_manifest(weights={"origin": "file", "sha256": EVIL, "record": {"data": EVIL, "clips": EVIL}})
    members = {graph.member: toy_graph(graph) for graph in manifest.graphs}
    fidelity = {"held_out": True, "on": EVIL, "labelled": 0, "windows": 1, "rows": [{"way": EVIL, "failed": EVIL}]}
    return Plan.write(path, manifest, members, {"fidelity": fidelity, "gate": {"none": EVIL}})


def assert_safe(text):
    assert text.isprintable() or all(line.isprintable() for line in text.split("\n")), repr(text)


def test_inspect(tmp_path, capsys):
    evil_plan(tmp_path / "x.plan")
    assert main(["inspect", str(tmp_path / "x.plan")]) == 0
    shown = capsys.readouterr().out
    assert_safe(shown)
    assert shown.count(SHOWN) > 3
    assert main(["inspect", "--json", str(tmp_path / "x.plan")]) == 0
    shown = capsys.readouterr().out
    assert_safe(shown)
    assert json.loads(shown)["manifest"]["weights"]["sha256"] == EVIL


@pytest.mark.parametrize("flags", [[], ["-v"]])
def test_errors_of_the_command_line_and_their_tracebacks(tmp_path, capsys, flags):
    (tmp_path / EVIL).write_text("no plan")
    assert main(["inspect", str(tmp_path / EVIL), *flags]) == 1
    said = capsys.readouterr().err
    assert_safe(said)
    assert SHOWN in said


def test_messages_of_the_command_line(capsys):
    from vlf_edge.cli import _log_to_stderr

    with _log_to_stderr(False):
        logging.getLogger("vlf_edge.some.part").warning("%s is not here", EVIL)
    assert capsys.readouterr().err == f"{SHOWN} is not here\n"


def test_messages_of_the_library():
    engine = EngineInfo("frame", EVIL, "frame.x.engine", "tensorrt", EVIL, (EVIL,), EVIL, 8)
    assert_safe(gpu_engines._built_for(engine))
    assert few([EVIL, "b"]) == f"{SHOWN}, b"


def test_progress():
    stream = io.StringIO()
    Progress(stream)(EVIL, 1, 1)
    assert stream.getvalue().startswith(f"{SHOWN}: 1 in ") and stream.getvalue().count("\n") == 1


def test_what_is_printed_and_drawn_of_a_decision():
    decided = Prediction("ok", 1.0, 3.0, 90, 12.5, EVIL, 0.875)
    assert SHOWN in describe(decided)
    image = np.zeros((96, 640, 3), np.uint8)
    np.testing.assert_array_equal(annotate(image, decided), annotate(image, replace(decided, label=SHOWN)))
    counts = np.eye(2, dtype=int)
    drawn = [draw_confusion(counts, [name, "b"], name) for name in (EVIL, SHOWN)]
    np.testing.assert_array_equal(*drawn)
