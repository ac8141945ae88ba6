"""What the documents say: links lead somewhere, commands are commands, and the README stays short."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vlf_edge.cli import parser

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (".", "docs", "benchmarks", "calibration", "engines")
PAGES = {str(page.relative_to(ROOT)): page for folder in FOLDERS for page in sorted((ROOT / folder).glob("*.md"))}
MAX_README_WORDS = 1300


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def block_lines(page: Path) -> list[str]:
    """The lines of a page's code blocks, indented or fenced, with continued lines joined."""
    text = page.read_text().replace("\\\n", " ")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    return [line.strip() for line in [*re.findall(r"^    (.*)", text, re.M), *"\n".join(fenced).splitlines()]]


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    text = PAGES[name].read_text()
    for link in [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'<img [^>]*src="([^"]+)"', text)]:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = PAGES[name].parent / path if path else PAGES[name]
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", PAGES)
def test_commands_are_understood(name):
    for line in block_lines(PAGES[name]):
        words = shlex.split(line.split(" | ")[0], comments=True) if re.match(r"(\S+=\S+ )*[\w./-]+ ", line) else []
        words = words[next((i for i, word in enumerate(words) if "=" not in word), 0) :]
        if words[:1] == ["vlf-edge"] and "--version" not in words:
            parser().parse_args(words[1:])
        if words[:1] == ["python"] and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), line
        if words[:1] == ["make"]:
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(), line


@pytest.mark.parametrize("name", ["gif.py", "people.py", "camera.py"])
def test_demos_know_the_options_that_the_readme_gives_them(name):
    done = subprocess.run([sys.executable, ROOT / "demos" / name, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in block_lines(PAGES["README.md"]):
        if f"demos/{name}" in line:
            assert all(option in done.stdout for option in re.findall(r"--[\w-]+", line)), line


def test_the_readme_is_short_and_its_picture_small():
    assert len((ROOT / "README.md").read_text().split()) <= MAX_README_WORDS
    assert (ROOT / "docs" / "demo.gif").stat().st_size < 1_000_000


def test_the_layout_names_every_room():
    """CONTRIBUTING.md tells of everything that lies in the package."""
    layout = (ROOT / "CONTRIBUTING.md").read_text().split("## Layout")[1].split("\n## ")[0]
    package = ROOT / "vlf_edge"
    rooms = {p.name for p in package.iterdir() if p.is_dir() and p.name != "__pycache__"}
    files = {p.name for p in package.glob("*.py") if not p.name.startswith("_")}
    told = {word.rstrip("/") for word in layout.split()}
    assert rooms | files <= told, (rooms | files) - told
    named = set(re.findall(r"\b[a-z]\w*\.py\b", layout))
    assert named <= {p.name for p in package.rglob("*.py")}, named - {p.name for p in package.rglob("*.py")}


def test_every_fault_that_is_told_of_is_held_by_tests_that_are_there():
    text = (ROOT / "docs/reliability.md").read_text().partition("## Faults")[2].partition("## ")[0]
    rows = [row.split("|") for row in text.splitlines() if row.startswith("| ")][1:]
    assert {row[1].strip() for row in rows} == {"source", "preprocessing", "engine", "sink"}
    for row in rows:
        named = re.findall(r"`(tests/\w+\.py)`", row[4])
        assert named and all((ROOT / name).is_file() for name in named), row
