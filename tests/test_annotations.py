"""What users have on disk, in every format, and which part of it a split is."""

import json
import logging
from pathlib import Path

import pytest
from numbered_clips import touch, write

from vlf_edge.datasets.annotations import read_annotations
from vlf_edge.datasets.splits import check_labels, choose_rows
from vlf_edge.errors import SourceError, VlfError


def names(rows) -> list[str]:
    return [row.path.name for row in rows]


# Folders


def test_a_folder_of_classes(tmp_path):
    touch(tmp_path, "wave/b.mp4", "wave/deep/a.AVI", "nod/a.webm", "nod/._a.webm", "nod/notes.txt", ".git/x/a.mp4")
    read = read_annotations(tmp_path)
    assert read.labels == ("nod", "wave") and read.missing == ()
    assert [(row.path.relative_to(tmp_path).as_posix(), row.label, row.split) for row in read.rows] == [
        ("nod/a.webm", "nod", None),
        ("wave/b.mp4", "wave", None),
        ("wave/deep/a.AVI", "wave", None),
    ]


def test_a_folder_of_splits(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "validation/a/3.mp4", "validation/b/4.mp4")
    read = read_annotations(tmp_path)
    assert names(choose_rows(read, "train")) == ["1.mp4", "2.mp4"]
    assert names(choose_rows(read, "val")) == names(choose_rows(read, "test")) == ["3.mp4", "4.mp4"]
    touch(tmp_path, "test/a/5.mp4", "test/b/6.mp4")
    assert names(choose_rows(read_annotations(tmp_path), "test")) == ["5.mp4", "6.mp4"]


def test_a_class_may_be_called_train(tmp_path):
    touch(tmp_path, "train/1.mp4", "train/2.mp4", "bus/3.mp4", "bus/4.mp4")
    assert read_annotations(tmp_path).labels == ("bus", "train")


def test_numbers_as_classes_are_sorted_as_numbers(tmp_path):
    assert read_annotations(touch(tmp_path, "10/a.mp4", "9/a.mp4", "0/a.mp4")).labels == ("0", "9", "10")


def test_a_class_without_clips_is_named(tmp_path):
    touch(tmp_path, "wave/1.mp4", "wave/2.mp4", "nod/notes.txt")
    with pytest.raises(VlfError, match="1 of 2 classes have no clip for train: nod"):
        choose_rows(read_annotations(tmp_path), "train")


def test_a_class_missing_in_validation_is_named(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4")
    read = read_annotations(tmp_path)
    with pytest.raises(VlfError, match="1 of 2 classes have no clip for val: b"):
        choose_rows(read, "val")
    assert names(choose_rows(read, "train")) == ["1.mp4", "2.mp4"]


# CSV


@pytest.mark.parametrize("header", ["", "path,label\n", "\ufeffPath, Label\n"])
def test_a_csv_with_and_without_header(tmp_path, header):
    touch(tmp_path, "a.mp4", "sub/b, b.mp4")
    read = read_annotations(write(tmp_path / "clips.csv", f'{header}a.mp4,wave\n\n"sub/b, b.mp4", nod \n'))
    assert [(row.path, row.label) for row in read.rows] == [
        (tmp_path / "a.mp4", "wave"),
        (tmp_path / "sub" / "b, b.mp4", "nod"),
    ]
    assert read.labels == ("nod", "wave")


def test_the_columns_of_a_csv(tmp_path):
    touch(tmp_path, "a.mp4")
    bare = write(
        tmp_path / "bare.csv", "a.mp4,x,1,2.5\na.mp4,x,0:01,1:02:03.5,validation\na.mp4,x,test\na.mp4,x,,,train"
    )
    found = [(row.start_s, row.end_s, row.split) for row in read_annotations(bare).rows]
    assert found == [(1, 2.5, None), (1, 3723.5, "val"), (0, None, "test"), (0, None, "train")]
    named = write(tmp_path / "named.csv", "split,note,label,start_s,path\nval,!,x,3,a.mp4")
    assert [(row.start_s, row.end_s, row.split) for row in read_annotations(named).rows] == [(3, None, "val")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.mp4,x,3,2", "line 2: the clip ends at 2 s but starts at 3 s"),
        ("a.mp4,x,soon,2", "line 2: 'soon' is no time; expected seconds or hours:minutes:seconds"),
        ("a.mp4,x,-1,2", "line 2: '-1' is no time"),
        ("a.mp4,x,nan,2", "line 2: 'nan' is no time"),
        ("a.mp4,x,holdout", "line 2: split 'holdout', expected train, val or test"),
        ("a.mp4,x,1,2,train,more", "line 2 has 6 cells; expected path,label"),
        ("a.mp4", "line 2 has 1 cells"),
        ("a.mp4,", "line 2: '' is no class name"),
        (",x", "line 2 names no file"),
        ("a.mp4,x\x1b[31m", "is no class name; expected printable text"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    touch(tmp_path, "a.mp4")
    with pytest.raises(VlfError) as raised:
        read_annotations(write(tmp_path / "clips.csv", f"a.mp4,x\n{line}\n"))
    assert message in str(raised.value) and "clips.csv" in str(raised.value)


def test_files_that_are_not_there_are_left_out_and_named_once(tmp_path, caplog):
    touch(tmp_path, *(f"{i}.mp4" for i in range(6)))
    lines = [f"{i}.mp4,{'ab'[i % 2]}" for i in range(14)]
    read = read_annotations(write(tmp_path / "clips.csv", "\n".join(lines)))
    assert len(read.rows) == 6 and len(read.missing) == 8
    with caplog.at_level(logging.WARNING):
        choose_rows(read, "train")
    assert len(caplog.records) == 1
    assert "8 files that the annotation names are not there" in caplog.text and "10.mp4" in caplog.text
    assert "and 3 more" in caplog.text


def test_a_class_left_empty_by_missing_files_is_an_error_that_names_both(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    read = read_annotations(write(tmp_path / "clips.csv", "a.mp4,wave\nb.mp4,wave\ngone.mp4,nod"))
    with pytest.raises(VlfError, match=r"no clip for train: nod \(1 files are not there: .*gone.mp4\)"):
        choose_rows(read, "train")
    with pytest.raises(SourceError, match="no video that the annotation names is there; looked for .*gone"):
        read_annotations(write(tmp_path / "other.csv", "gone.mp4,nod"))


def test_lists_beside_each_other_are_the_splits(tmp_path):
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4")
    train = write(tmp_path / "my_train_v2.csv", "1.mp4,a\n2.mp4,b\n")
    assert names(choose_rows(read_annotations(train), "all")) == ["1.mp4", "2.mp4"]
    val = write(tmp_path / "my_val_v2.csv", "3.mp4,a\n3.mp4,b,0,1\n")
    for file in (train, val):
        read = read_annotations(file)
        assert names(choose_rows(read, "train")) == ["1.mp4", "2.mp4"]
        assert names(choose_rows(read, "val")) == ["3.mp4", "3.mp4"]


def test_a_list_for_training_alone_is_divided_and_one_for_validation_alone_is_not(tmp_path):
    touch(tmp_path, *(f"{i}.mp4" for i in range(10)))
    lines = "\n".join(f"{i}.mp4,a" for i in range(10))
    train = read_annotations(write(tmp_path / "train.csv", lines))
    assert (len(choose_rows(train, "train")), len(choose_rows(train, "val"))) == (8, 2)
    alone = read_annotations(write(touch(tmp_path / "b", "1.mp4") / "val.csv", "1.mp4,a"))
    assert len(choose_rows(alone, "val")) == 1
    with pytest.raises(SourceError, match="has no clips for train; it has 1 for val, 1 for test, 1 for all"):
        choose_rows(alone, "train")


# Something-Something


def something(root: Path) -> Path:
    """The layout of the public files, small."""
    touch(root, "20bn-something-something-v2/1.webm", "20bn-something-something-v2/2.mp4", "more/3.webm")
    train = [
        {"id": "1", "label": "holding up a cup", "template": "Holding [something] up", "placeholders": ["a cup"]},
        {"id": "2", "label": "x", "template": "Approaching [something] with your camera", "placeholders": ["x"]},
    ]
    val = [{**train[0], "id": "3"}, {**train[1], "id": "2"}]
    labels = {"Holding something up": "1", "Approaching something with your camera": "0"}
    name = "something-something-v2"
    write(root / f"{name}-labels.json", json.dumps(labels))
    write(root / f"{name}-validation.json", json.dumps(val))
    write(root / f"{name}-test.json", json.dumps([{"id": "9"}]))
    return write(root / f"{name}-train.json", json.dumps(train))


def test_something_something(tmp_path):
    read = read_annotations(something(tmp_path))
    assert read.labels == ("Approaching something with your camera", "Holding something up")
    assert [(row.path.name, row.label[:7]) for row in choose_rows(read, "train")] == [
        ("1.webm", "Holding"),
        ("2.mp4", "Approac"),
    ]
    assert names(choose_rows(read, "val")) == names(choose_rows(read, "test")) == ["3.webm", "2.mp4"]


def test_something_something_without_its_labels_file_sorts_the_templates(tmp_path):
    train = something(tmp_path)
    (tmp_path / "something-something-v2-labels.json").unlink()
    assert read_annotations(train).labels == ("Approaching something with your camera", "Holding something up")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("labels", '{"Holding something up": "0"}', "does not list the classes Approaching something with your camera"),
        ("labels", '["Holding something up"]', "is no labels file"),
        ("train", '[{"id": "1"}]', "train.json, entry 1 (id 1) has no template"),
        ("train", '[{"name": "1"}]', 'is JSON but no list of {"id": ..., "template": ...}; accepted: motion'),
        ("train", '{"a": "0"}', "is JSON but no list"),
        ("validation", "[[[", "validation.json begins like JSON but is not"),
    ],
)
def test_wrong_files_of_something_something_are_named(tmp_path, file, text, message):
    train = something(tmp_path)
    write(tmp_path / f"something-something-v2-{file}.json", text)
    with pytest.raises(VlfError) as raised:
        read_annotations(train)
    assert message in str(raised.value)


# EPIC-KITCHENS

EPIC_HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)


def epic_line(video: str, start: str, stop: str, verb: str, verb_class: int) -> str:
    return (
        f"{video}_0,{video[:3]},{video},0,{start},{stop},8,202,{verb} it,{verb},{verb_class},door,3,\"['a', 'b']\",[3]"
    )


def epic(root: Path) -> Path:
    touch(root, "P01/P01_01.MP4", "P01/flow/P01_01.mp4", "videos/P02_01.MP4")
    train = [
        epic_line("P01_01", "00:00:01.50", "00:00:02.25", "open", 3),
        epic_line("P02_01", "01:00:00.00", "01:00:01.00", "open", 3),
        epic_line("P02_01", "00:00:00.00", "00:00:01.00", "pull-open", 3),
        epic_line("P02_01", "00:00:05.00", "00:00:06.00", "take", 0),
    ]
    write(
        root / "EPIC_100_validation.csv",
        "\n".join([EPIC_HEADER, epic_line("P01_01", "00:00:03", "00:00:04", "open", 3)]),
    )
    return write(root / "EPIC_100_train.csv", "\n".join([EPIC_HEADER, *train]))


def test_epic_kitchens(tmp_path, caplog):
    read = read_annotations(epic(tmp_path))
    assert read.labels == ("take", "open")
    rows = choose_rows(read, "train")
    assert [(row.path.name, row.label, row.start_s, row.end_s) for row in rows] == [
        ("P01_01.MP4", "open", 1.5, 2.25),
        ("P02_01.MP4", "open", 3600, 3601),
        ("P02_01.MP4", "open", 0, 1),
        ("P02_01.MP4", "take", 5, 6),
    ]
    with caplog.at_level(logging.WARNING):
        assert [row.label for row in choose_rows(read, "val")] == ["open"]
    assert "1 of 2 classes have no clip for val: take" in caplog.text, "rare verbs: known, said, no error"


def test_epic_kitchens_takes_the_published_names_of_its_verbs(tmp_path):
    train = epic(tmp_path)
    write(tmp_path / "EPIC_100_verb_classes.csv", "id,key,instances,category\n0,pick-up,\"['take']\",x\n3,open,[],x\n")
    assert read_annotations(train).labels == ("pick-up", "open")


def test_a_wrong_line_of_epic_kitchens_is_named(tmp_path):
    train = epic(tmp_path)
    train.write_text(train.read_text() + "\n" + epic_line("P01_01", "00:00:09", "00:00:08", "open", 3))
    with pytest.raises(VlfError, match=r"EPIC_100_train.csv, line 6: the clip ends at 8 s but starts at 9 s"):
        read_annotations(train)
    train.write_text("\n".join([EPIC_HEADER, epic_line("P01_01", "0", "1", "open", 3).replace(",3,door", ",x,door")]))
    with pytest.raises(VlfError, match=r"EPIC_100_train.csv, line 2: expected a value for participant_id"):
        read_annotations(train)


# Neither


def test_what_is_no_data_says_what_is(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "video.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42\xff\xfe")
    for path, message in (
        (tmp_path / "gone", "no data at"),
        (tmp_path / "empty", "holds no folder of videos"),
        (touch(tmp_path / "flat", "a.mp4"), "holds no folder of videos"),
        (tmp_path / "video.mp4", "is no UTF-8 text"),
        (write(tmp_path / "blank.csv", " \n\n"), "is empty"),
        (write(tmp_path / "names.csv", "path,label\n"), "lists no clips"),
        (write(tmp_path / "nothing.json", "[]"), "lists no clips"),
        (write(tmp_path / "notes.txt", "hello there\n"), "its first line has no comma"),
    ):
        with pytest.raises(VlfError) as raised:
            read_annotations(path)
        text = str(raised.value)
        assert message in text and path.name in text and "Something-Something" in text and "\n" not in text


def test_a_model_of_epic_kitchens_may_know_verbs_that_the_data_lacks(tmp_path):
    read = read_annotations(epic(tmp_path))
    assert check_labels(read, ["take", "put", "open"]) == ("take", "put", "open")
    with pytest.raises(VlfError, match="missing: put; unexpected: open"):
        check_labels(read, ["take", "put"])


# What nobody would write


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.csv", ",\n", "nothing but commas"),
        ("a.csv", ",,,\n\n ,\n", "nothing but commas"),
        ("a.csv", f"x.mp4,a,0,{':'.join('1' * 400)}\n", "is no time"),
        ("a.csv", f"x.mp4,{'9' * 5000}\n", "no video that the annotation names is there"),
        ("EPIC.csv", "participant_id,video_id,start_timestamp,stop_timestamp,verb,verb_class\n"
         f"P01,v,0,1,take,{'9' * 5000}\n", "the last a number"),
        ("a.json", '[{"id": "\\ud800", "template": "x"}]', "no video that the annotation names is there"),
        ("a.json", '[{"id": "a\\u0000b", "template": "x"}]', "no video that the annotation names is there"),
    ],
    ids=range(7),
)  # fmt: skip
def test_hostile_annotations_are_refused_in_one_sentence(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(VlfError, match=said) as raised:
        read_annotations(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_labels_file_with_an_infinite_number_is_refused(tmp_path):
    touch(tmp_path, "1.webm")
    (tmp_path / "a.json").write_text('[{"id": "1", "template": "x"}]')
    (tmp_path / "labels.json").write_text('{"x": Infinity}')
    with pytest.raises(VlfError, match="is no labels file"):
        read_annotations(tmp_path / "a.json")


def test_a_list_of_classes_that_holds_nothing_but_commas_is_refused(tmp_path):
    touch(tmp_path, "v.MP4")
    header = "participant_id,video_id,start_timestamp,stop_timestamp,verb,verb_class"
    (tmp_path / "EPIC.csv").write_text(f"{header}\nP01,v,0,1,take,0\n")
    (tmp_path / "EPIC_verb_classes.csv").write_text(",\n")
    with pytest.raises(VlfError, match="nothing but commas"):
        read_annotations(tmp_path / "EPIC.csv")
