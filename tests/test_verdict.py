"""What is said of a run: how long it takes, when it ends, what came of it."""

import pytest

from vlf_edge.training import outlook
from vlf_edge.training.outlook import Outlook, in_words
from vlf_edge.training.verdict import has_stalled, is_guessing, verdict


def rows(*scores):
    return [{"top1": top1, "val_loss": loss, "train_top1": 0.5, "clips": 320} for top1, loss in scores]


def test_a_run_stalls_when_neither_accuracy_nor_loss_gets_better():
    history = rows((0.5, 1.0), (0.6, 0.9), (0.6, 0.95), (0.4, 0.9))
    assert has_stalled(history, 2) and not has_stalled(history, 3) and not has_stalled(history, 0)
    assert not has_stalled([*history, *rows((0.4, 0.8))], 2) and not has_stalled([*history, *rows((0.7, 2.0))], 2)
    assert not has_stalled([], 2) and not has_stalled(history[:2], 2)


@pytest.mark.parametrize(
    "right, clips, chance, guessing",
    [(5, 12, 0.25, True), (6, 12, 0.25, False), (4, 4, 0.5, False), (2, 4, 0.25, True), (30, 1300, 1 / 13, True)],
)
def test_guessing_is_what_luck_explains(right, clips, chance, guessing):
    assert is_guessing(right / clips, clips, chance) == guessing


def record(top1, start="vlf-tiny"):
    val = {"top1": top1, "clips": 24, "chance": 1 / 6}
    return {"val": val, "settings": {"epochs": 20, "lr": 1e-3, "start": start}, "span_s": 2.0}


def test_the_verdict_says_what_to_do():
    assert verdict(record(0.5), rows((0.5, 1)), 72) is None
    unlearned = [{**rows((0.2, 1))[0], "train_top1": 0.2}]
    said = verdict(record(0.2), unlearned, 72)
    assert "it has not learned: 20% of 24" in said and "--epochs 40 or --lr 0.002;" in said and "--span 2 s" in said
    assert "--lr 0.002, --from vlf-tiny" in verdict(record(0.2, start=None), unlearned, 72).replace(" or start", ",")
    by_heart = [{**rows((0.2, 1))[0], "train_top1": 0.99}]
    assert "learns these 72 clips by heart" in verdict(record(0.2), by_heart, 72)
    assert "start --from vlf-tiny" in verdict(record(0.2, start=None), by_heart, 72)


def test_how_long_a_run_takes_is_said_once_from_its_own_steps(monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr(outlook.time, "monotonic", lambda: now_s[0])
    foretold, said = Outlook(200), []
    for step_s in (20.0, *[0.5] * 199):
        now_s[0] += step_s
        said.append(foretold.after_step())
    assert [text for text in said if text] == ["200 steps will take 2 minutes at most, validation aside"]
    assert said[7]
    assert all(Outlook(5).after_step() is None for _ in range(10))


def test_a_run_takes_no_longer_than_it_may(monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(outlook.time, "monotonic", lambda: now_s[0])
    foretold, said = Outlook(10_000, limit_s=600), []
    for _ in range(10):
        now_s[0] += 1
        said.append(foretold.after_step())
    assert "10000 steps will take 10 minutes at most" in "".join(filter(None, said))


def test_times_are_said_as_people_say_them():
    assert [in_words(s) for s in (1, 22, 58, 200, 7000)] == [
        "5 seconds", "20 seconds", "1 minute", "3 minutes", "1.9 hours",
    ]  # fmt: skip
