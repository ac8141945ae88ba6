"""The report of a run: one file that needs nothing else, tells what happened and cannot be made to run anything."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from toy_clips import LABELS, Squares
from toy_model import build_toy

from vlf_edge.training.device import Device
from vlf_edge.training.judgement import Answer, Judgement, judge
from vlf_edge.training.report import Run, page

CONFUSION = np.array([[3, 1, 0], [0, 4, 0], [1, 0, 1]])
RECORD = {
    "model": "vlf-tiny", "data": "clips/", "epochs": 2, "clips": 64, "minutes": 0.5, "device": "CPU", "command": "x",
    "broken": {"training": 1, "validation": 0}, "settings": {"balance": False, "lr": 1e-3}, "versions": {"torch": "2"},
}  # fmt: skip
ROW = {"epoch": 1, "loss": 1.5, "val_loss": 1.25, "train_top1": 0.5, "top1": 0.75, "lr": 1e-3}


def report(labels=("wave", "stop", "<script>"), confusion=CONFUSION, name="a.mp4", **changes):
    frames = np.random.default_rng(0).integers(0, 255, (3, 8, 16, 3), np.uint8)
    worst = (Answer(name, 2, 0, 0.1, 0.7, frames), Answer("b.mp4", 1, 1, 0.4, 0.4, frames))
    history = [ROW, {**ROW, "epoch": 2, "val_loss": float("nan")}]
    given = {"learned_from": [8, 8, 2], "judgement": Judgement(confusion, worst), "advice": None} | changes
    return page(Run("w.safetensors", RECORD, history, labels, 2.0, **given)).decode()


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order."""

    VOID = {"meta", "input"}

    def __init__(self, text):
        super().__init__()
        self.open, self.text = [], ""
        self.feed(text)
        assert not self.open

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_it_tells_what_happened_in_one_file():
    text = report()
    said = Balanced(text).text
    assert "8 of 10 clips right, 80.0%" in said and "75.0%" in said  # mean recall: 3/4, 4/4, 1/2
    assert "1 of these 2 were decided wrongly" in said and "70% wave, 10% <script>" in said
    assert "three times the clips" in said and "1 clips" in said
    # Nothing is fetched, nothing runs, and frames are in it: two films.
    assert not re.search(r"<(script|link|img|iframe|object)|https?:|\bon\w+=", text)
    assert text.count("url(data:image/jpeg;base64,") == 2 and "--frames:3;--shape:2.0000;--seconds:2s" in text
    assert "nan" not in "".join(re.findall(r'points="(.*?)"', text))


def test_names_from_strangers_are_shown_and_not_run():
    text = report(labels=("a", "b", '"><script>x</script>'), name="\x1b[2J<img src=x onerror=y>.mp4")
    assert "<script" not in text and "<img" not in text and "\x1b" not in text
    assert "\\x1b[2J&lt;img" in text


def test_many_classes_are_told_by_what_was_mistaken():
    labels = tuple(f"class {i}" for i in range(60))
    confusion = 5 * np.eye(60, dtype=int)
    confusion[7, 9] = 4
    text = report(labels, confusion, learned_from=None)
    assert 'class="confusion"' not in text and "<td>class 7</td><td>class 9</td><td>4 of 9</td>" in text


@pytest.mark.parametrize("broken", [(), (1, 4)])
def test_every_clip_is_judged_and_the_worst_are_kept(broken):
    clips, model, seen = Squares(20, broken=broken), build_toy().eval(), []
    judgement = judge(model, clips, Device(torch.device("cpu"), None), 8, 0, lambda *done: seen.append(done))
    readable = [index for index in range(20) if index not in broken]
    frames = np.stack([clips.sample(index, None).frames for index in readable])
    with torch.no_grad():
        shares = model(torch.from_numpy(frames)).softmax(dim=1).numpy()
    expected = np.zeros((4, 4), int)
    np.add.at(expected, ([index % 4 for index in readable], shares.argmax(axis=1)), 1)
    assert np.array_equal(judgement.confusion, expected) and seen == [(8, 20), (16, 20), (20, 20)]
    of_truth = {f"square {index}": row[index % 4] for index, row in zip(readable, shares)}
    worst = sorted(of_truth.values())[:12]
    assert [answer.truth_share for answer in judgement.worst] == pytest.approx(worst, abs=1e-5)
    for answer in judgement.worst:
        assert answer.truth_share == pytest.approx(of_truth[answer.name], abs=1e-5)
        assert np.array_equal(answer.frames, frames[readable.index(int(answer.name.split()[1]))])
    assert len(LABELS) == len(judgement.confusion)
