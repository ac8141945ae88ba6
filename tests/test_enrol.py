"""From clips to a plan that knows them: with the weights that ship, on rendered gestures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_folder

from vlf_edge import Plan, PlanMismatch, Runtime, VideoWriter, VlfError, enrol, open_source
from vlf_edge.cli import main
from vlf_edge.compiler import Recipe, build
from vlf_edge.compiler.fp32_model import SHIPPED_PLAN
from vlf_edge.enrolment import calibrate_unknown, change_labels
from vlf_edge.evaluation import evaluate

GOLDEN = Path(__file__).parent / "golden"
GESTURES = {"yes": "nod", "no": "shake", "come": "approach"}
SIZE = "seconds=2.5&fps=12&width=96&height=72"


def clip(motion: str, seed: int) -> str:
    return f"test://motion?label={motion}&seed={seed}&{SIZE}"


ACTIONS = {label: [clip(motion, seed) for seed in (1, 2, 3)] for label, motion in GESTURES.items()}
NOTHING = [clip(motion, seed) for motion in ("still", "clockwise", "left") for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    with shared_folder(tmp_path_factory, "enrolled") as folder:
        if not (folder / "mine.plan").exists():
            enrol(SHIPPED_PLAN, ACTIONS, folder / "mine.plan", none=NOTHING, false_accepts=0.05)
        return Plan.open(folder / "mine.plan")


def decided(plan: Plan, motion: str, seed: int) -> set[str]:
    """The labels that a stream of a clip is given, most of the time."""
    with Runtime(plan) as runtime:
        found = [p.label for p in runtime.stream(clip(motion, seed)) if p.state == "ok"]
    return {label for label in found if found.count(label) > len(found) / 2}


def test_a_plan_knows_what_it_was_taught_and_what_it_was_not(plan):
    assert plan.manifest.labels == ("yes", "no", "come", "unknown") and plan.manifest.format == 3
    for label, motion in GESTURES.items():
        assert decided(plan, motion, 11) == {label}
    assert decided(plan, "counter-clockwise", 11) == {"unknown"}
    record = plan.manifest.head.record
    assert record["unknown_from"] == "none clips" and record["unknown_clips"] == len(NOTHING)
    assert record["false_accepts"] <= 0.05 and record["labels"]["yes"]["clips"] == 3
    plan.verify()


def test_a_whole_clip_is_decided_about_by_its_windows_as_it_was_taught(plan, tmp_path):
    name = "test://motion?label=nod&seed=11&seconds=5&fps=12&width=96&height=72"
    with Runtime(plan) as runtime:
        windows = [one for one in runtime.stream(name) if one.state == "ok"]
        decision = runtime.classify(name)
        mean = np.mean([one.scores for one in windows], axis=0)
        np.testing.assert_allclose(decision.scores, mean, atol=1e-5)
        np.testing.assert_allclose(np.exp(decision.logits), mean, atol=1e-5)
        assert (
            len(windows) > 8 and decision.label == plan.manifest.labels[mean.argmax()] == decision.topk[0][0] == "yes"
        )
        assert (decision.t_start_s, decision.t_end_s) == (windows[0].t_start_s, windows[-1].t_end_s)
        assert runtime.stats()["counts"]["clips"] == 1 and list(runtime.stats()["streams"]) == ["main"]
        # Where there is no window, and where there are no times: frames from all of it.
        assert runtime.classify("test://motion?label=nod&seed=11&seconds=1&fps=12&width=96&height=72").state == "ok"
        with open_source(name) as source:
            assert runtime.classify([frame.image for frame in source]).state == "ok"
    for label, motion in GESTURES.items():
        (tmp_path / label).mkdir()
        with (
            open_source(clip(motion, 11)) as source,
            VideoWriter(str(tmp_path / label / "1.avi"), fps=12) as writer,
        ):
            for frame in source:
                writer.write(frame.image)
    report = evaluate(plan, str(tmp_path), split="all", live=True, against="fp32")
    assert report["top1"] == report["live"]["top1"] == 1 and report["live"]["agreement"] == 1
    assert report["against"]["agreement"] == 1 and report["against"]["max_abs_logits"] < 1e-3


def test_only_the_head_is_new_and_it_is_small(plan):
    before = Plan.open(SHIPPED_PLAN)
    for graph in before.manifest.graphs:
        assert plan.read(graph.member) == before.read(graph.member)
    assert sum(array.size_bytes for array in plan.manifest.head.arrays) < 100_000
    assert plan.report == before.report


def test_no_name_of_a_clip_is_kept(plan):
    assert b"motion?" not in json.dumps(plan.manifest.to_json()["head"]).encode()


def test_one_more_label_and_more_clips_of_one_come_beside_the_others(plan, tmp_path):
    actions = {"away": [clip("recede", seed) for seed in (1, 2, 3)], "yes": clip("nod", 4)}
    more = enrol(plan, actions, tmp_path / "more.plan")
    assert more.manifest.labels == ("yes", "no", "come", "away", "unknown")
    record = more.manifest.head.record
    assert [record["labels"][label]["clips"] for label in more.manifest.labels[:-1]] == [4, 3, 3, 3]
    assert record["unknown_clips"] == len(NOTHING)
    for label, motion in {**GESTURES, "away": "recede"}.items():
        assert decided(more, motion, 12) == {label}


def test_without_clips_of_other_things_what_does_not_move_is_unknown(tmp_path):
    found = enrol(SHIPPED_PLAN, {"yes": ACTIONS["yes"], "no": ACTIONS["no"]}, tmp_path / "mine.plan")
    assert found.manifest.head.record["unknown_from"] == "still frames"
    assert decided(found, "nod", 11) == {"yes"} and decided(found, "still", 11) == {"unknown"}


@pytest.mark.slow
def test_classes_can_be_kept_beside_new_labels(tmp_path, monkeypatch):
    monkeypatch.setattr("vlf_edge.enrolment.kept._CLIPS_OF_A_CLASS", 2)
    loop = {"zigzag": [f"test://motion?{SIZE}&label=left&seed={seed}" for seed in (5, 6)]}
    found = enrol(SHIPPED_PLAN, loop, tmp_path / "mine.plan", keep="motion")
    head, classes = found.manifest.head, found.manifest.classes
    assert found.manifest.labels == ("zigzag", *classes) and head.reads == ("features", "logits")
    kept = head.record["kept"]
    assert kept["clips"] == 26 and kept["right"] >= kept["right_before"] - 0.1
    assert head.record["unknown_from"] is None and not head.unknown  # one of the classes is that nothing moves
    assert decided(found, "approach", 11) == {"approach"} and decided(found, "nod", 11) == {"nod"}
    # Labels are taken out and renamed without any clip, and the rest decides as before.
    fewer = change_labels(found, tmp_path / "fewer.plan", remove=["still"], rename={"nod": "yes"})
    assert "still" not in fewer.manifest.labels and decided(fewer, "nod", 11) == {"yes"}
    again = enrol(fewer, {"come": [clip("approach", s) for s in (1, 2)]}, tmp_path / "again.plan")
    assert (
        again.manifest.labels[:2] == ("zigzag", "come") and again.manifest.labels[2:-1] == fewer.manifest.labels[1:-1]
    )
    with pytest.raises(VlfError, match="'left' is a class that --keep keeps"):
        enrol(SHIPPED_PLAN, {"left": loop["zigzag"]}, tmp_path / "no.plan", keep="motion")


def test_labels_go_and_change_their_names(plan, tmp_path, capsys):
    mine = tmp_path / "mine.plan"
    assert main(["labels", str(plan.path), "--remove", "no", "--rename", "yes=ja", "-o", str(mine)]) == 0
    assert capsys.readouterr().out.split() == ["ja", "come", "unknown"]
    found = Plan.open(mine)
    assert decided(found, "nod", 11) == {"ja"} and decided(found, "approach", 11) == {"come"}
    assert found.manifest.head.record["labels"].keys() == {"ja", "come"}
    more = enrol(found, {"no": ACTIONS["no"]}, mine)
    assert more.manifest.labels == ("ja", "come", "no", "unknown") and decided(more, "shake", 11) == {"no"}
    trained = change_labels(SHIPPED_PLAN, tmp_path / "trained.plan", remove=["nod"], rename={"shake": "no"})
    assert decided(trained, "shake", 11) == {"no"} and trained.manifest.head.reads == ("logits",)
    assert not trained.manifest.head.unknown and "unknown" not in trained.manifest.labels


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"remove": ["maybe"]}, "has no label 'maybe'; it has: yes, no, come, unknown"),
        ({"remove": ["unknown"]}, "can neither go nor change"),
        ({"rename": {"yes": "no"}}, "cannot be called 'no'"),
        ({"rename": {"yes": "unknown"}}, "cannot be called 'unknown'"),
        ({"remove": ["yes", "no", "come"]}, "1 label; expected two or more"),
    ],
)
def test_labels_that_cannot_be(plan, tmp_path, changes, words):
    with pytest.raises(VlfError, match=words):
        change_labels(plan, tmp_path / "x.plan", **changes)


def test_a_trained_plan_learns_to_say_unknown(tmp_path):
    nothing = [clip(motion, seed) for motion in ("still",) for seed in range(20)]
    found = calibrate_unknown(GOLDEN / "format1-fp32.plan", nothing, tmp_path / "x.plan", false_accepts=0.1)
    least = found.manifest.head.record["least_probability"]
    assert found.manifest.labels == (*"abcde", "unknown") and 0.2 < least < 1
    with Runtime(found) as runtime:
        for prediction in runtime.stream(clip("left", 3)):
            if prediction.state == "ok":
                known = prediction.scores[:-1] / prediction.scores[:-1].sum()
                assert (prediction.label == "unknown") == (known.max() < least) or abs(known.max() - least) < 1e-3
    with pytest.raises(VlfError, match=r"20 clip\(s\) of nothing have 80 windows; .* takes 999"):
        calibrate_unknown(GOLDEN / "format1-fp32.plan", nothing, tmp_path / "x.plan", false_accepts=0.001)
    with pytest.raises(PlanMismatch, match="vlf-edge enrol and --none"):
        calibrate_unknown(enrolled_toy(tmp_path), nothing, tmp_path / "y.plan")


def enrolled_toy(tmp_path) -> Plan:
    base = GOLDEN / "format2-fp32.plan"
    return enrol(base, {"yes": ACTIONS["yes"][:2], "no": ACTIONS["no"][:2]}, tmp_path / "toy.plan")


@pytest.mark.slow
def test_a_plan_that_was_enrolled_is_requantised_with_its_head(tmp_path):
    toy = enrolled_toy(tmp_path)
    clips = "test://motion?seconds=90&fps=8&width=96&height=72"
    recipe = Recipe(precision="int8", target="cpu", calib_data=(clips,), calib_samples=32)
    int8 = build(recipe, tmp_path / "int8.plan", base=toy.path, cache_dir=tmp_path / "ranges")
    assert int8.manifest.precision == "int8" and int8.manifest.labels == toy.manifest.labels
    assert int8.manifest.head == toy.manifest.head
    for name, array in toy.head().arrays.items():
        np.testing.assert_array_equal(int8.head().arrays[name], array)
    with Runtime(int8) as runtime:
        assert {p.label for p in runtime.stream(ACTIONS["yes"][0]) if p.state == "ok"} <= {*toy.manifest.labels}
    more = enrol(int8, {"come": ACTIONS["come"][:2]}, tmp_path / "more.plan")
    assert more.manifest.labels == ("yes", "no", "come", "unknown") and more.manifest.precision == "int8"


def test_eval_tells_misses_and_false_accepts(plan, tmp_path, capsys):
    data = tmp_path / "data"
    for label, motion in {**GESTURES, "unknown": "still"}.items():
        save(clip(motion, 21), data / label / "1.avi")
    save(clip("counter-clockwise", 22), tmp_path / "nothing" / "1.avi")
    report = evaluate(plan, str(data), split="all", nothing=[str(tmp_path / "nothing")])
    assert report["top1"] == 1 and report["labels"] == list(plan.manifest.labels)
    unknown = report["unknown"]
    assert unknown["clips"] == 2 and unknown["misses"] == 0 and unknown["auroc"] > 0.9
    assert unknown["windows"] > 2 and unknown["hours"] > 0
    assert unknown["false_accepts"] <= 1 and unknown["broken"] == {}
    assert main(["eval", str(SHIPPED_PLAN), "motion", "--limit", "13", "--none", str(tmp_path / "nothing")]) == 0
    told = capsys.readouterr().out
    assert "of 1 clips of nothing" in told and "AUROC" in told and "missed" not in told


def save(source: str, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_source(source) as frames, VideoWriter(path, 12) as writer:
        for frame in frames:
            writer.write(frame.image)
    return path


def test_the_command_says_how_well_clips_are_known(tmp_path, capsys):
    folder = tmp_path / "clips"
    for label in ("yes", "no"):
        for seed in (1, 2):
            save(clip(GESTURES[label], seed), folder / label / f"{seed}.avi")
    words = ["enrol", str(SHIPPED_PLAN), f"yes={folder}/yes", f"no={folder}/no/*.avi", "-o", str(tmp_path / "m.plan")]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "yes  2 clip(s)" in told and "right when each is left out in turn" in told and "give --none" in told
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"]["no"]["clips"] == 2
    assert main(["inspect", str(tmp_path / "m.plan")]) == 0
    assert "head        reads features" in capsys.readouterr().out


MISTAKES = {
    "no equals": (["wave"], "cannot read 'wave'; expected LABEL=CLIPS"),
    "a label twice": (["a=x", "a=y"], "the label 'a' comes twice"),
    "no such folder": (["a=/no/such/place"], "no clips of 'a' at /no/such/place: there is no such file"),
    "an empty folder": (["a={tmp}/empty"], "holds no videos; vlf-edge capture 0 -o"),
    "too short": (["a={tmp}/short.avi"], r"none of the 1 clip\(s\) of 'a' can teach it: .* one window takes 1.50 s"),
    "nothing moves": (["a={tmp}/still.avi"], "nothing moves in it"),
    "a camera": (["a=0"], "no clips of 'a' at 0"),
    "unknown": (["unknown={tmp}/still.avi"], "give such clips with --none"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_get_one_sentence(tmp_path, capsys, what):
    words, sentence = MISTAKES[what]
    (tmp_path / "empty").mkdir()
    save(clip("nod", 1).replace("seconds=2.5", "seconds=1"), tmp_path / "short.avi")
    with VideoWriter(tmp_path / "still.avi", 12) as writer:
        for _ in range(30):
            writer.write(np.full((72, 96, 3), 90, np.uint8))
    words = [word.format(tmp=tmp_path) for word in words]
    assert main(["enrol", str(GOLDEN / "format2-fp32.plan"), *words, "-o", str(tmp_path / "x.plan")]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vlf-edge: ")]
    assert re.search(sentence, line) and not (tmp_path / "x.plan").exists()


def test_plans_of_earlier_versions_say_that_they_cannot_and_what_would(tmp_path):
    with pytest.raises(PlanMismatch, match=r"vlf-edge build .*format1-fp32.plan --precision fp32 --output NEW.plan"):
        enrol(GOLDEN / "format1-fp32.plan", ACTIONS, tmp_path / "x.plan")
    with pytest.raises(PlanMismatch, match="--precision int8 --calib-data CLIPS"):
        enrol(GOLDEN / "format1-int8.plan", ACTIONS, tmp_path / "x.plan")
    with Runtime(GOLDEN / "format1-fp32.plan") as runtime:
        assert runtime.labels == (*"abcde",)
