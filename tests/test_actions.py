"""benchmarks/actions.py: every fold is trained, built and judged, once, and the figures are added up by clips."""

import json
import subprocess
from pathlib import Path

import actions
import pytest


@pytest.fixture
def verbs(monkeypatch):
    """The verbs that were called, each answered as vlf-edge does."""
    called = []

    def answer(*words):
        called.append(words)
        record = {"val": {"top1": 0.5}, "settings": {"batch": 8}}
        trained = {"record": record, "history": [{"clips": 80}, {"clips": 80}]}
        judged = {"top1": 0.75, "clips": 4 if "fold0" in words[1] else 12}
        if "int8" in words and "fold1" in words[-1]:
            said = "vlf-edge: int8 falls short of its gate even with 13 nodes back in float"
            raise subprocess.CalledProcessError(1, words, "", said)
        return json.dumps({"train": trained, "build": None, "enrol": None, "eval": judged}[words[0]])

    monkeypatch.setattr(actions, "vlf_edge", answer)
    return called


def test_a_fold_is_measured_once_with_the_defaults(verbs, tmp_path):
    fold = tmp_path / "fold0.csv"
    found = actions.measure(fold, "vlf-tiny", tmp_path)
    assert (found["top1"], found["clips"], found["steps"]) == (0.75, 4, 20)
    assert verbs[0][:-3] == ("train", str(fold), "--from", "vlf-tiny") and found["precision"] == "int8"
    assert [words[0] for words in verbs] == ["train", "build", "eval"] and verbs[2][-3:-1] == ("--split", "test")
    assert actions.measure(fold, "vlf-tiny", tmp_path) == found and len(verbs) == 3
    assert json.loads((tmp_path / "fold0-vlf-tiny.json").read_text()) == found
    actions.measure(fold, "scratch", tmp_path)
    assert verbs[3][:-3] == ("train", str(fold))


def test_a_head_is_taught_what_the_others_learn_from(verbs, tmp_path):
    fold, rows = tmp_path / "fold0.csv", ["path,label,split"]
    for number, split in enumerate(["train", "val", "test", "train"]):
        (tmp_path / f"{number}.avi").touch()
        rows.append(f"{number}.avi,{'wave' if number < 3 else 'stop'},{split}")
    fold.write_text("\n".join(rows) + "\n")
    found = actions.measure(fold, "head", tmp_path)
    assert [words[0] for words in verbs] == ["build", "enrol", "eval"] and found["top1"] == 0.75
    taught = {label: len([*Path(folder).iterdir()]) for label, folder in (w.split("=") for w in verbs[1][2:4])}
    assert taught == {"wave": 2, "stop": 1}
    actions.measure(fold, "head-acts", tmp_path)
    assert verbs[3][-3:] == ("vlf-tiny-acts", "--output", str(tmp_path / "vlf-tiny-acts-int8.plan"))
    assert verbs[4][1:] == (verbs[3][-1], *verbs[1][2:4], "--output", str(tmp_path / "fold0-head-acts.plan"))


def test_a_fold_that_int8_is_refused_for_is_measured_in_fp16(verbs, tmp_path):
    found = actions.measure(tmp_path / "fold1.csv", "scratch", tmp_path)
    assert (found["precision"], found["top1"]) == ("fp16", 0.75)
    assert ["int8" in words for words in verbs] == [False, True, False, False] and "fp16" in verbs[2]


def test_the_table_adds_up_clips_not_folds():
    ones = [
        {"fold": "a", "from": "vlf-tiny", "precision": "int8", "top1": 1.0, "clips": 10, "minutes": 1.0},
        {"fold": "b", "from": "vlf-tiny", "precision": "fp16", "top1": 0.5, "clips": 30, "minutes": 2.0},
    ]
    assert "| vlf-tiny | 100.0% | 50.0% (fp16) | 62.5% of 40, 47% to 76% | 1.0 to 2.0 |" in actions.table(ones)


def test_the_interval_ends_where_the_share_found_is_hardly_luck():
    """Against its definition: shares p from which what was found is 1.96 standard deviations away."""
    for right, of in ((25, 40), (24, 24), (0, 23), (111, 120)):
        for p in actions.wilson(right, of):
            assert abs(right / of - p) == pytest.approx(1.96 * (p * (1 - p) / of) ** 0.5, abs=1e-6)
