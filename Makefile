# From a bare Linux machine with Python >= 3.10 to a running demo, or to tested code.
PYTHON ?= python3
BIN := .venv/bin
CV2_NEEDS := libgl1 libglib2.0-0

.PHONY: env demo test clean

env: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@# OpenCV's wheel takes two libraries from the system, which servers and containers often lack.
	@$(BIN)/python -c 'import cv2' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq $(CV2_NEEDS); \
	  else echo "OpenCV needs two system libraries: sudo apt-get install $(CV2_NEEDS)"; \
	  sudo apt-get update -qq && sudo apt-get install -y -qq $(CV2_NEEDS); fi; }
	@$(BIN)/python -c 'import cv2'
	@touch $@

demo: env
	$(BIN)/vlf-edge build --precision int8 --random-weights --recipe calibration/test-pattern.toml --output demo.plan
	$(BIN)/python demos/camera.py --engine demo.plan --source 'test://motion?seconds=20&seed=1' --save demo.mp4

test: env
	$(BIN)/ruff check
	$(BIN)/python -m pytest

clean:
	rm -rf .venv demo.plan demo.mp4 build dist *.egg-info
