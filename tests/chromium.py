"""Chromium, headless, for tests of the page: a plugin that gives them the fixture ``browser``."""

from __future__ import annotations

import shutil
from typing import Protocol

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WAIT_S = 60
WIDE, PHONE = (1440, 900), (390, 844)


class Served(Protocol):
    """What has a page."""

    url: str


class Browser:
    """Chromium, asked in the words of these tests."""

    def __init__(self):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--lang=en"):
            options.add_argument(argument)
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.set_script_timeout(WAIT_S)

    def look(self, server: Served, size: tuple[int, int] = WIDE, more: str = "", **features: str) -> Browser:
        """Opens the page. features: of CSS media queries, such as prefers_color_scheme="dark"."""
        width, height = size
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE},
        )
        given = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": given})
        self.driver.get(server.url + more)
        return self

    def js(self, code: str, *given):
        """Runs a function body; ``$`` and ``$$`` find elements."""
        finders = "const $ = (s) => document.querySelector(s), $$ = (s) => [...document.querySelectorAll(s)];"
        return self.driver.execute_script(finders + code, *given)

    def until(self, code: str, *given):
        """Waits for an expression to be true, and gives it."""
        from selenium.webdriver.support.wait import WebDriverWait

        said = f"{code}; the page says: "
        waiting = WebDriverWait(self.driver, WAIT_S, poll_frequency=0.05)
        try:
            return waiting.until(lambda _: self.js(f"return {code}", *given))
        except Exception:
            pytest.fail(said + self.js("return document.body.innerText"))

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def click(self, selector: str) -> None:
        self.driver.find_element("css selector", selector).click()

    def complaints(self) -> list[str]:
        """What the console has, but for the 401 that asks for the token."""
        return [e["message"] for e in self.driver.get_log("browser") if "401 (Unauthorized)" not in e["message"]]


@pytest.fixture(scope="session")
def browser():
    pytest.importorskip("selenium", reason="the page is tested with selenium: pip install selenium")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("the page is tested in Debian's Chromium: apt-get install chromium chromium-driver")
    made = Browser()
    yield made
    made.driver.quit()


# In the page: whether texts that stand beside each other overlap, and which text is hard to read on what is behind it.
OVERLAPS = """
const clash = (a, b) => a.right - b.left > 1 && b.right - a.left > 1 && a.bottom - b.top > 1 && b.bottom - a.top > 1;
const boxes = ".head, .decision, .bars li, .title-row, #events li, header, tr, dl, #lesson, #lesson button";
return $$(boxes).flatMap((box) => {
  const parts = [...box.children].filter((e) => e.textContent.trim() && e.checkVisibility() && e.tagName !== "LABEL");
  return parts.flatMap((a, i) => parts.slice(i + 1).filter((b) => clash(a.getBoundingClientRect(),
    b.getBoundingClientRect())).map((b) => `${a.textContent} | ${b.textContent}`));
});
"""
FAINT = """
const numbers = (c) => c.match(/[\\d.]+/g).map(Number);
const light = (c) => numbers(c).slice(0, 3).map((v) => v / 255).map((v) => v <= .03928 ? v / 12.92 :
  ((v + .055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const ground = (e) => { const c = getComputedStyle(e).backgroundColor; return (numbers(c)[3] ?? 1) > .7 ?
  c : e.parentElement ? ground(e.parentElement) : "rgb(255, 255, 255)"; };
return $$("h1, h2, h3, .state, #health, .bars span, .facts, td, th, dt, dd, #events span, .note, .empty, button, #keys")
  .concat($$("#lesson span, #lesson kbd, #lesson li, #lesson-now"))
  .filter((e) => e.textContent.trim() && e.checkVisibility() && !e.closest(".decision")).filter((e) => {
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5; }).map((e) => e.className + " " + e.textContent);
"""
