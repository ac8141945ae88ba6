"""Configuration files of vlf-edge run: read with the line of whatever is wrong."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlf_edge import VlfError
from vlf_edge.commands import run
from vlf_edge.commands.config import CameraTable, read_config
from vlf_edge.toml_file import TomlFile

OF_CAMERAS = frozenset({"fps"})


def read(path, text):
    path.write_text(text)
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    return read_config(path, parser, OF_CAMERAS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cameras.toml"


def test_options_stand_under_their_own_names_and_cameras_have_tables(path, tmp_path):
    config = read(
        path,
        """
        plan = "vlf.plan"
        max-batch-delay-ms = 5
        no_cuda_graph = true
        save = "/tmp/out.mp4"

        [cameras.door]
        source = 0
        fps = 12.5
        [cameras."back yard"]
        source = "rtsp://me@here/stream"
        [cameras.file]
        source = "clips/*.mp4"
        """,
    )
    assert config.defaults == {
        "plan": str(tmp_path / "vlf.plan"),
        "max_batch_delay_ms": 5,
        "no_cuda_graph": True,
        "save": "/tmp/out.mp4",
    }
    assert config.cameras == {
        "door": CameraTable("0", {"fps": 12.5}),
        "back yard": CameraTable("rtsp://me@here/stream"),
        "file": CameraTable(str(tmp_path / "clips/*.mp4")),
    }


@pytest.mark.parametrize(
    "text, line, message",
    [
        ("plan = 'a'\n\ntread = 2", 3, "unknown entry 'tread'; known here: backend, "),
        ("threads = 'two'", 1, "threads is 'two'; expected a whole number"),
        ("threads = true", 1, "threads is true; expected a whole number"),
        ("json = 1", 1, "json is 1; expected true or false"),
        ("plan = 3", 1, "plan is 3; expected a text"),
        ("rebuild = 'x'", 1, "rebuild is 'x'; expected one of never, auto, always"),
        ("config = 'x'", 1, "unknown entry 'config'"),
        ("[cameras.a]\nfps = 3", 1, "camera 'a' needs a source, such as source = 0"),
        ("[cameras.a]\nsource = true", 1, "camera 'a' needs a source"),
        ("[cameras.a]\nsource = 0\n\n[cameras.b]\nsource = 1\nfps = 'x'", 6, "fps is 'x'; expected a number"),
        ("[cameras.a]\nsource = 0\nthreads = 2", 3, "threads is for the whole run: it stands above the tables"),
        ("cameras = 3", 1, "expected a table for each camera"),
        ("[cameras]\na = 0", 1, "expected a table for each camera"),
        ("[cameras]\nb = {source = 0, threads = 2}", 2, "threads is for the whole run"),
        ("[cameras.a]\nsource = 0\nmax_batch_delay_ms = 2", 3, "max_batch_delay_ms is for the whole run"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(path, text, line, message):
    with pytest.raises(VlfError, match=f"cameras.toml, line {line}: .*{message}"):
        read(path, text)


def test_what_cannot_be_read_is_said(path):
    with pytest.raises(VlfError, match="cannot read the configuration .*line 1"):
        read(path, "= 3")
    with pytest.raises(VlfError, match="cannot read the configuration .*none.toml: No such file"):
        TomlFile(path.parent / "none.toml", "configuration")


@given(st.text(alphabet=st.sampled_from("[]={}.'\"#ab1\n ,cameras-_source"), max_size=80))
def test_any_text_is_read_or_refused_in_one_sentence(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    try:
        read(path, text)
    except VlfError:
        pass
