"""The page in a real browser: Chromium, headless. What is on a board must be seen, heard and reached by keys."""

from __future__ import annotations

import numpy as np
import page_scenes as scenes
import pytest
from chromium import FAINT, OVERLAPS, PHONE, WIDE
from page_scenes import serving

from vlf_edge import Frame
from vlf_edge.serve import Board
from vlf_edge.types import Event


def show(board: Board, stream: str, level: int, seq: int, **known) -> None:
    """A grey picture and a decision."""
    image = np.full((90, 160, 3), level, np.uint8)
    board.write(Frame(image, seq / 4, seq, 0.0, stream=stream), scenes.prediction(stream, seq, **known))


# What the eye sees, not what was loaded: the picture drawn onto a canvas.
LEVEL = """(image, level) => {
  if (!image.naturalWidth) return false;
  const drawn = new OffscreenCanvas(1, 1).getContext("2d");
  drawn.drawImage(image, 0, 0, 1, 1);
  return Math.abs(drawn.getImageData(0, 0, 1, 1).data[0] - level) < 4;
}"""


@pytest.mark.parametrize(
    "count, size, scheme", [(1, PHONE, "dark"), (4, WIDE, "dark"), (9, WIDE, "light"), (9, PHONE, "light")]
)
def test_everything_fits_and_can_be_read(browser, count, size, scheme):
    with serving(scenes.board(count, away=True, events=8)) as server:
        browser.look(server, size, prefers_color_scheme=scheme)
        browser.until(f"$$('.card').length === {count} && $$('#events li').length === 8 && $('#stages td')")
        assert browser.js(OVERLAPS) == []
        assert browser.js(FAINT) == []
        sizes = browser.js("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
        assert sizes[0] == sizes[1], "nothing sticks out"
        lightness = browser.js("return getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        assert (int(lightness) < 128) == (scheme == "dark")
        assert browser.complaints() == []


def test_pictures_and_decisions_are_the_newest(browser):
    board = Board({"door": True, "film.mp4": False}, scenes.PLAN)
    with serving(board) as server:
        browser.look(server)
        browser.until("$$('.card').length === 2 && $('#no-events').checkVisibility()")
        assert browser.js("return $$('.nothing').every((e) => e.textContent.startsWith('No frame yet'))")
        for seq, level in ((0, 60), (1, 200)):
            show(board, "door", level, seq)
            browser.until(f"({LEVEL})($('.picture img'), arguments[0])", level)
        label = scenes.prediction("door", 1).label
        browser.until("$('.decision .label').innerText === arguments[0] && $('.state').textContent === 'OK'", label)
        assert browser.js("return $('.bars li .share').innerText") == browser.js(
            "return $('.decision .score').innerText"
        )
        assert browser.js("return $$('.bars')[0].children.length") == 5
        board.write(None, scenes.prediction("door", -1, state="no_signal"))
        browser.until("$('.nothing').textContent.startsWith('No signal since ')")
        assert not browser.js("return $('.decision').checkVisibility()"), "an old decision is none"
        browser.until("$('#announce').textContent === 'door: No signal'")


def test_figures_are_there(browser):
    with serving(scenes.board(2)) as server:
        browser.look(server)
        browser.until("$('#stages td')")
        stages = browser.js("return $$('#stages tr').map((row) => row.innerText.split('\\t'))")
        assert stages[-1] == ["decision", "5.90", "7.20", "11.02", "33.06"]
        assert browser.js("return $('#frame-columns').innerText").split("\t")[-1] == "Lost: sinks too slow"
        assert browser.js("return $$('#frames tr')[1].innerText").split("\t")[-2:] == ["3", "2"]
        assert (
            browser.js("return $('#cost').innerText").replace("\u00a0", " ")
            == "13 min 32 s of processor time, 12.2 mJ a decision."
        )
        sinks = browser.js(
            "return $$('#sink-rows tr').map((row) => row.innerText.replaceAll('\u00a0', ' ').split('\t'))"
        )
        assert sinks[1][1:] == ["failing for 1 min 12 s", "31", "4", "503 Service Unavailable"]
        plan = browser.js("return $('#plan').innerText")
        assert (
            "openvino, CPU" in plan and "passed: 0.26 points of accuracy lost" in plan and "same decision in 99" in plan
        )
        assert browser.js("return $('#running').innerText") == "vlf-tiny, int8 on openvino (CPU)"


def test_keys_reach_everything(browser):
    from selenium.webdriver.common.keys import Keys

    board = Board({"door": True, "dock": True})
    for name in ("door", "dock"):
        show(board, name, 50, 0)
    focused = "document.activeElement"
    with serving(board) as server:
        browser.look(server)
        browser.until("$$('.card').length === 2 && $$('.picture img').every((image) => image.naturalWidth)")
        browser.press(Keys.TAB, Keys.ENTER, Keys.TAB)
        assert browser.js(f"return {focused}.getAttribute('aria-label')") == "Stream door", "past what is skipped"
        assert browser.js(f"return getComputedStyle({focused}).outlineStyle") == "solid"
        browser.press(Keys.TAB, Keys.TAB)
        assert browser.js(f"return {focused}.getAttribute('aria-label')") == "Enlarge door"
        browser.press("p")
        browser.until("$('.pause').getAttribute('aria-pressed') === 'true' && $('.paused').checkVisibility()")
        shown = browser.js("return [$('.picture img').src, $('.decision').innerText]")
        for seq in range(1, 15):
            show(board, "door", 90, seq)
            show(board, "dock", 90, seq)
        browser.until("$$('.card')[1].querySelector('.decision').innerText !== arguments[0]", shown[1])
        assert browser.js("return [$('.picture img').src, $('.decision').innerText]") == shown, "it is paused"
        browser.press("p", "z")
        browser.until("$('.card').classList.contains('zoomed')")
        box = browser.js("const b = $('.card').getBoundingClientRect(); return [b.width, b.height]")
        assert box == list(WIDE) and browser.js("return $$('.card')[1].inert && $('.events').inert && $('#top').inert")
        browser.press(Keys.ESCAPE)
        browser.until(f"!$('.zoomed') && {focused} === $('.card') && !$('.events').inert")
        browser.press(Keys.ARROW_RIGHT, Keys.ENTER)
        browser.until("$$('.card')[1].classList.contains('zoomed')")


def test_screen_readers_are_told_what_everything_is(browser):
    with serving(scenes.board(2, events=3)) as server:
        browser.look(server)
        browser.until("$$('#events li').length === 3 && $$('.picture img').every((image) => image.naturalWidth)")
        nodes = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    known = [
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
    ]
    for role, name in known:
        assert name or role not in ("button", "image", "link", "heading", "combobox", "region", "columnheader"), role
    assert ("image", "Live picture of front door") in known and ("listitem", "Stream front door") in known
    assert ("list", "Most likely actions") in known and ("list", "Events, newest first") in known
    assert ("button", "Pause front door") in known and ("combobox", "Show the events of") in known
    assert {"banner", "main", "status"} <= {role for role, _ in known}


def test_events_come_end_and_show_their_clips(browser, tmp_path):
    import cv2

    clip = tmp_path / "event.webm"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"VP80"), 10, (160, 120))
    for image in scenes.image(4), scenes.image(4, 1.4):
        for _ in range(10):
            writer.write(cv2.resize(image, (160, 120)))
    writer.release()
    board = Board({"door": True, "dock": True}, clip_of=lambda stream, number: clip if number == 1 else None)
    show(board, "door", 60, 0)
    board.write_event(Event("dock", "left", 0.0, 2.0, 0.9, 0))
    with serving(board) as server:
        browser.look(server)
        browser.until("$$('#events li').length === 1")
        board.write_event(Event("door", "nod", -1.0, None, 0.71, 1))
        browser.until("$('#events li .what').innerText === 'nod' && $('#events .more').innerText.includes('now, for')")
        assert browser.js("return $('#announce').textContent") == "door: nod"
        board.write_event(Event("door", "nod", -1.0, 12.5, 0.97, 1))
        browser.until("$('#events .more').innerText.replaceAll('\\u00a0', ' ') === 'door · 13 s · peak 97 %'")
        browser.click("#events li button")
        browser.until("$('#clip').open && $('#clip-video').readyState >= 2 && $('#clip-video').videoWidth === 160")
        assert browser.js("return $('#clip-error').hidden && $('#clip-title').innerText") == "nod, door"
        browser.click("#clip-close")
        browser.driver.find_element("css selector", "#of-stream option[value=dock]").click()
        browser.until("$$('#events li').length === 1 && $('#events .what').innerText === 'left'")
        assert browser.complaints() == []


def test_what_strangers_write_stays_text(browser):
    evil = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
    board = Board({evil: True}, {**scenes.PLAN, "model": evil, "file": evil})
    show(board, evil, 9, 0)
    board.write_event(Event(evil, evil, 0.0, 1.0, 0.9, 0))
    with serving(board) as server:
        browser.look(server)
        browser.until("$('#events li') && $('.picture img').naturalWidth")
        assert browser.js("return [$('.name').innerText, $('#events .what').innerText]") == [evil, evil]
        assert browser.js("return $$('img, script').length") == 3, "one picture and two scripts, as the page is written"
        assert browser.js("return document.title") != "taken" and browser.complaints() == []


def test_random_weights_are_called_so(browser):
    plan = {**scenes.PLAN, "random_weights": True, "gate": None, "fidelity": None}
    with serving(Board({}, plan, events=False)) as server:
        browser.look(server, PHONE)
        browser.until("$('#no-events').innerText.startsWith('This run makes no events')")
        browser.until("$('#random-weights').checkVisibility() && $('#no-streams').checkVisibility()")
        assert "RANDOM WEIGHTS" in browser.js("return $('#plan').innerText")


def test_the_token_is_asked_for_and_kept_out_of_the_address(browser):
    token = "correct-horse-battery-staple"
    with serving(scenes.board(1, steps=2), token=token) as server:
        browser.look(server, PHONE)
        browser.until("$('#login').checkVisibility() && document.activeElement.id === 'token'")
        assert not browser.js("return $('#app').checkVisibility()")
        browser.press("wrong\n")
        browser.until("$('#login-error').innerText === 'this is not the token'")
        browser.js("$('#token').value = ''")
        browser.press(token + "\n")
        browser.until("$('#app').checkVisibility() && $('.card')")
        browser.click("#logout")
        browser.until("$('#login').checkVisibility()")
        browser.look(server, more=f"#token={token}")
        browser.until("$('.card') && $('#app').checkVisibility()")
        assert browser.js("return location.href") == server.url
        assert not browser.js("return document.cookie"), "scripts do not see it"


def test_a_program_that_has_ended_is_said_to_have(browser):
    with serving(scenes.board(1, steps=2)) as server:
        browser.look(server)
        browser.until("$('.card')")
    browser.until("$('#lost-contact').checkVisibility() && $('#health').innerText === 'No contact'")


def test_who_wants_no_motion_gets_none(browser):
    with serving(scenes.board(1)) as server:
        for wish, lasts in (("no-preference", "0.2s"), ("reduce", "0s")):
            browser.look(server, prefers_reduced_motion=wish).until("$('.fill')")
            assert browser.js("return getComputedStyle($('.fill')).transitionDuration") == lasts
