"""Addresses with passwords: every password works, none is shown."""

import contextlib
import io
import re
import socket
import traceback
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vlf_edge import SourceError, VlfError
from vlf_edge.cli import main
from vlf_edge.commands.cameras import name_sources
from vlf_edge.video.sources import find_source, hidden
from vlf_edge.video.sources.url import Url

# As people write them, without percent-encoding: "%41" would be an A.
RAW = st.text("@:/%#aZ9 !$&'()*+,;=._~-[]{}|é", min_size=1, max_size=20).filter(
    lambda word: not re.search("%[0-9a-fA-F]{2}", word)
)
ANY = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=20)


@given(RAW)
@example(" ! ")
@settings(deadline=None)
def test_passwords_as_they_are(password):
    text = f"rtsp://viewer:{password}@cam.local:554/live/1"
    url = Url.parse(text)
    assert (url.user, url.password, url.host, url.port, url.rest) == ("viewer", password, "cam.local", 554, "/live/1")
    assert str(url) == repr(url) == hidden(text) == find_source(text).name == "rtsp://viewer:***@cam.local:554/live/1"
    assert Url.parse(url.reveal()) == url


@given(ANY)
@settings(deadline=None)
def test_passwords_percent_encoded(password):
    text = f"rtsp://viewer:{quote(password, safe='')}@10.0.0.7/live"
    url = Url.parse(text)
    assert url.password == password and str(url) == hidden(text) == "rtsp://viewer:***@10.0.0.7/live"
    assert url.reveal() == text


@pytest.mark.parametrize(
    "text, shown",
    [
        ("rtsp://cam/stream@2", "rtsp://cam/stream@2"),
        ("https://cam.local/@door/live", "https://cam.local/@door/live"),
        ("http://[fe80::1]:8080/video", "http://[fe80::1]:8080/video"),
        ("rtsp://u:p@[::1]/x", "rtsp://u:***@[::1]/x"),
        ("rtsp://u:p?w@cam/x", "rtsp://u:***@cam/x"),
        ("rtsp://a1b2c3@cam/x", "rtsp://***@cam/x"),
        ("http://cam/v?channel=1&password=p@s/s#1&x=2", "http://cam/v?channel=1&password=***&x=2"),
        ("http://cam/v?token=abc", "http://cam/v?token=***"),
        ("rtsp://cam:554/user=admin&password=geheim&channel=1", "rtsp://cam:554/user=admin&password=***&channel=1"),
        ("rtsp://u:geheim@", "rtsp://***"),
        ("rtsp://u:geheim@cam:99999/", "rtsp://***"),
        ("rtsp://u:ge\nheim@cam/", "rtsp://***"),
        ("rtspsrc location=rtsp://u:p w!@cam/ user-pw=x ! decodebin ! fakesink", "rtspsrc ! decodebin ! fakesink"),
        ("gst:souphttpsrc location=http://u:p@cam/", "souphttpsrc"),
        ("v4l2src device=/dev/video0 ! appsink", "v4l2src device=/dev/video0 ! appsink"),
        ("clips/a b.mp4", "clips/a b.mp4"),
        ("/dev/v4l/by-path/usb-0:2.3:1.0", "/dev/v4l/by-path/usb-0:2.3:1.0"),
        ("rtsp:/u:gehei@m@cam/x", "rtsp:***@cam/x"),  # mistyped
        ("u:geheim@cam/x", "u:***@cam/x"),
    ],
)
def test_what_is_shown(text, shown):
    assert hidden(text) == shown


@pytest.mark.parametrize(
    "text, called",
    [
        ("rtsp://u:a/secret", "***"),
        ("rtsp://u:a/secret@cam/door", "door"),
        ("rtsp://viewer:secret@cam.local:8554", "cam.local:8554"),
        ("rtsps://secret@cam/", "cam"),
        ("http://cam/video.mjpg?user=admin&password=secret", "video.mjpg"),
        ("https://cam/?token=secret", "cam"),
        ("rtsp://cam/user=admin&password=secret&channel=1", "user=admin&password=***&channel=1"),
        ("gst://rtspsrc location=rtsp://u:secret@cam/ ! decodebin", "rtspsrc ! decodebin"),
        ("test://motion?seed=2", "motion?seed=2"),
        ("clips/", "clips"),
    ],
)
def test_streams_are_named_without_secrets(text, called):
    assert list(name_sources([text, text])) == [called, f"{called}#2"]


@given(
    st.one_of(
        st.text(max_size=60),
        st.tuples(
            st.sampled_from(["rtsp", "RTSPS", "http", "https", "csi", "v4l2", "gst", "file", "test://motion?", "x"]),
            st.sampled_from(["://", ":", ""]),
            st.text("@:/%#?&=[].0aé \0\n\x1b!-", max_size=40),
        ).map("".join),
    )
)
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_source_or_one_sentence(text):
    try:
        address = find_source(text)
    except SourceError as error:
        assert "\n" not in str(error)
    else:
        assert address.name == hidden(address.name)


@pytest.fixture(scope="module")
def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it, and it refuses
        yield taken.getsockname()[1]


def test_no_password_is_ever_said(toy_plan, closed_port, caplog):
    @given(RAW)
    @settings(max_examples=20, deadline=None)
    def check(password):
        secret = f"gEh3im{password}"
        for scheme in ("rtsp", "http"):
            url = f"{scheme}://viewer:{secret}@127.0.0.1:{closed_port}/x?token={quote(secret, safe='')}"
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                assert main(["run", str(toy_plan.path), url, "--backend", "fake", "--max-retries", "0", "-v"]) == 4
                with pytest.raises(SystemExit):
                    main(["capture", "0", url])
            try:
                find_source(url).open()
            except VlfError as error:
                said.write("".join(traceback.format_exception(error)) + repr(error) + repr(find_source(url)))
                assert error.__cause__ is None and error.__context__ is None
            assert "refuses the connection" in said.getvalue() and "viewer:***@127.0.0.1" in said.getvalue()
            assert "gEh3im" not in said.getvalue() + caplog.text

    check()
