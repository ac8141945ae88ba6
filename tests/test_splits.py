"""Which clips are for training and which for validation, and whose classes they are."""

import shutil

import pytest
from numbered_clips import touch, write

from vlf_edge.datasets.annotations import read_annotations
from vlf_edge.datasets.splits import check_labels, choose_rows, divide
from vlf_edge.errors import VlfError


def test_the_made_split_keeps_a_fifth_of_every_class_for_validation(tmp_path):
    counts = {"one": 1, "two": 2, "ten": 10, "more": 23}
    touch(tmp_path, *(f"{label}/{i}.mp4" for label, count in counts.items() for i in range(count)))
    parts = divide(read_annotations(tmp_path))
    held_out = {label: sum(row.label == label for row in parts["val"]) for label in counts}
    assert held_out == {"one": 0, "two": 1, "ten": 2, "more": 5}
    assert len(parts["train"]) + len(parts["val"]) == len(parts["all"]) == 36
    assert not {row.path for row in parts["train"]} & {row.path for row in parts["val"]}
    assert parts["test"] == parts["val"]


def test_the_made_split_does_not_depend_on_where_the_data_lies(tmp_path):
    touch(tmp_path / "here", *(f"{label}/{i}.mp4" for label in "ab" for i in range(20)))
    shutil.copytree(tmp_path / "here", tmp_path / "there" / "deeper")
    here, there = read_annotations(tmp_path / "here"), read_annotations(tmp_path / "there" / "deeper")
    first = [row.path.relative_to(here.root) for row in choose_rows(here, "val")]
    assert first == [row.path.relative_to(there.root) for row in choose_rows(there, "val")]
    by_name = [
        sorted(row.path.name for row in rows)[1:5]
        for rows in ([row for row in here.rows if row.label == c] for c in "ab")
    ]
    assert [row.path.name for row in choose_rows(here, "val")] != sum(by_name, []), (
        "neighbours, which often look alike, are not kept together"
    )


def test_stretches_of_one_file_stay_on_one_side(tmp_path):
    touch(tmp_path, *(f"{i}.mp4" for i in range(10)))
    lines = [f"{i}.mp4,{label},{start},{start + 1}" for i in range(10) for start, label in enumerate("abab")]
    parts = divide(read_annotations(write(tmp_path / "clips.csv", "\n".join(lines))))
    assert len(parts["val"]) == 8
    assert not {row.path for row in parts["train"]} & {row.path for row in parts["val"]}


def test_one_file_for_two_classes_is_never_taken_from_training(tmp_path):
    touch(tmp_path, "both.mp4", *(f"{i}.mp4" for i in range(9)))
    lines = ["both.mp4,a,0,1", "both.mp4,b,1,2", *(f"{i}.mp4,a" for i in range(9))]
    parts = divide(read_annotations(write(tmp_path / "clips.csv", "\n".join(lines))))
    assert {row.label for row in parts["train"]} == {"a", "b"} and len(parts["val"]) == 2


def test_a_limit_takes_evenly_from_all_classes(tmp_path):
    touch(tmp_path, *(f"{label}/{i}.mp4" for label, count in (("a", 20), ("b", 2), ("c", 20)) for i in range(count)))
    rows = choose_rows(read_annotations(tmp_path), "all", limit=8)
    assert [row.label for row in rows] == ["a"] * 3 + ["b"] * 2 + ["c"] * 3
    assert rows == [row for row in choose_rows(read_annotations(tmp_path), "all") if row in rows]
    assert len(choose_rows(read_annotations(tmp_path), "all", limit=999)) == 42


def test_what_is_named_apart_is_not_divided(tmp_path):
    touch(tmp_path, *(f"folder/{label}/{i}.mp4" for label in "ab" for i in range(5)))
    read = read_annotations(tmp_path / "folder")
    assert choose_rows(read, "train", apart=True) == choose_rows(read, "val", apart=True) == list(read.rows)
    touch(tmp_path, *(f"split/{split}/{label}/1.mp4" for split in ("train", "val") for label in "ab"))
    read = read_annotations(tmp_path / "split")
    for split in ("train", "val"):
        assert choose_rows(read, split, apart=True) == choose_rows(read, split), "what is said is taken at its word"


def test_the_labels_of_a_model_give_the_order_and_must_fit(tmp_path):
    read = read_annotations(touch(tmp_path, "a/1.mp4", "b/1.mp4", "c/1.mp4"))
    assert check_labels(read, None) == ("a", "b", "c")
    assert check_labels(read, ["c", "a", "b"]) == ("c", "a", "b")
    with pytest.raises(VlfError, match="are not the model's 3: missing: d; unexpected: c. Take"):
        check_labels(read, ["a", "b", "d"])
    with pytest.raises(VlfError, match="are not the model's 2: unexpected: c"):
        check_labels(read, ["a", "b"])
