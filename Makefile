# From a bare Linux machine with Python >= 3.10 to a running demo, or to tested code.
PYTHON ?= python3
BIN := .venv/bin
CV2_NEEDS := libgl1 libglib2.0-0
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

# OpenCV's wheel takes two libraries from the system, which servers and containers often lack.
define check_cv2
@$(BIN)/python -c 'import cv2' 2>/dev/null || { \
  if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq $(CV2_NEEDS); \
  else echo "OpenCV needs two system libraries: sudo apt-get install $(CV2_NEEDS)"; \
  sudo apt-get update -qq && sudo apt-get install -y -qq $(CV2_NEEDS); fi; }
@$(BIN)/python -c 'import cv2'
endef

.PHONY: env demo test weights weights-acts clean

# All that tests, training and export need; most of it is PyTorch.
env: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt .venv/.runtime
	$(PIP) --editable '.[dev]'
	$(check_cv2)
	@touch $@

# What building from the shipped weights and running on a CPU need.
.venv/.runtime: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(PIP) --editable '.[cpu,build]'
	$(check_cv2)
	@touch $@

demo: .venv/.runtime
	$(BIN)/vlf-edge build --precision int8 --output demo.plan
	$(BIN)/python demos/camera.py --engine demo.plan --source 'test://motion?seconds=26&seed=1' --save demo.mp4

# Tests start hundreds of processes of this package: it is compiled once, whatever the environment says.
test: env
	$(BIN)/ruff check
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses auto --dist worksteal

# Trains the weights that ship anew: about 100 minutes on two cores. docs/training.md has the record.
weights: env
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc-per-node 2 -m vlf_edge train motion --model vlf-tiny \
	  --epochs 40 --clips-per-epoch 16000 --val-clips 390 --batch 16 --workers 1 --warmup 0.02 --label-smoothing 0.05 \
	  --motion-weight 4 --motion-weight-end 0.3 --half --compile --out build/weights/vlf-tiny.safetensors
	$(call ship,vlf-tiny)

# And from them, in about 50 minutes, those to enrol on.
weights-acts: env
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc-per-node 2 -m vlf_edge train motion --from vlf-tiny \
	  --acts 0.6 --epochs 25 --clips-per-epoch 16000 --val-clips 390 --batch 32 --workers 1 --warmup 0.02 \
	  --label-smoothing 0.05 --motion-weight 0.3 --patience 0 --half --compile --out build/weights/vlf-tiny-acts.safetensors
	$(call ship,vlf-tiny-acts)

define ship
cp build/weights/$(1).last.safetensors vlf_edge/weights/$(1).safetensors
$(BIN)/vlf-edge build --precision fp32 --target cpu --weights vlf_edge/weights/$(1).safetensors --no-golden-windows \
  --output vlf_edge/weights/$(1).plan
endef

clean:
	rm -rf .venv demo.plan demo.mp4 build dist *.egg-info
