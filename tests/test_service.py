"""What lies in deploy/: it fits the checkout, and systemd takes the unit."""

from __future__ import annotations

import argparse
import configparser
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vlf_edge.cli import parser
from vlf_edge.commands import run
from vlf_edge.commands.cameras import OF_CAMERAS, find_cameras
from vlf_edge.commands.config import read_config

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
IMAGES = sorted(path.name for path in DEPLOY.glob("Dockerfile*"))


def test_the_example_is_a_configuration():
    verb = argparse.ArgumentParser()
    run.add_arguments(verb)
    config = read_config(DEPLOY / "cameras.toml", verb, OF_CAMERAS)
    verb.set_defaults(**config.defaults, cameras=config.cameras)
    args = verb.parse_args([])
    assert args.plan == str(DEPLOY / "vlf.plan") and set(find_cameras(args)) == {"door", "dock"}


def instructions(name: str) -> list[list[str]]:
    text = (DEPLOY / name).read_text().replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_copies_what_there_is_and_leaves_nothing_out(name):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    known = instructions(name)
    copied = [path for words in known if words[0] == "COPY" and "--from" not in words[1] for path in words[1:-1]]
    assert {"pyproject.toml", "setup.py", "vlf_edge", "engines", "calibration", "deploy/healthy.py"} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists() and f"!{path.split('/')[0]}" in ignored, path
    runs = [words for words in known if words[0] == "CMD"]
    command = re.findall(r'"([^"]+)"', " ".join(runs[-1]))
    assert parser().parse_args(command).config == "/etc/vlf-edge/cameras.toml"
    assert "vlf-edge" in [words[1] for words in known if words[0] == "USER"], "not root"
    if name != "Dockerfile":
        assert (DEPLOY / name).read_text().startswith("# UNTESTED")


def test_the_unit_starts_what_there_is():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(DEPLOY / "vlf-edge.service")
    words = unit["Service"]["ExecStart"].split()
    assert parser().parse_args(words[1:]).config == "/etc/vlf-edge/cameras.toml"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit():
    done = subprocess.run(
        ["systemd-analyze", "verify", DEPLOY / "vlf-edge.service"], capture_output=True, text=True, timeout=240
    )
    complaints = [line for line in done.stderr.splitlines() if "vlf-edge.service" in line]
    assert all("/opt/vlf-edge/bin/vlf-edge is not executable" in line for line in complaints), done.stderr


@pytest.mark.parametrize("code", [200, 503, 401])
def test_a_container_is_as_healthy_as_the_page_says(tmp_path, code):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            allowed = self.headers["Authorization"] == "Bearer 0123456789abcdef"
            self.send_response(code if allowed and self.path == "/healthz" else 401)
            self.end_headers()
            self.wfile.write(b"why")

        def log_message(self, *about):
            pass

    (tmp_path / "token").write_text("0123456789abcdef\n")
    script = tmp_path / "healthy.py"
    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        text = (DEPLOY / "healthy.py").read_text()
        assert ":8000/" in text
        script.write_text(text.replace(":8000/", f":{server.server_port}/"))
        known = {**os.environ, "VLF_EDGE_TOKEN_FILE": str(tmp_path / "token")}
        done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=known, timeout=240)
        server.shutdown()
    assert (done.returncode, done.stderr) == ((0, "") if code == 200 else (1, "why\n"))
