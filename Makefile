# Everything a newcomer needs: `make demo`, then `make test`. Set-up is part of both, and done once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
DEMO := work_dirs/demo
SLIM := deeplabv3plus_r50-slim_optic-disc-128
ARGS := --data-root $(DEMO)/data --size 96 --set optim_wrapper.optimizer.lr=0.05

.PHONY: setup demo test test-unit test-all lint bench clean

setup: $(READY)

$(READY): requirements.lock setup.py
	@echo "setting up .venv (once, about two minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "rdistill needs Python 3.10 or newer; set PYTHON=..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The main job on images that rdistill draws: a teacher, a baseline, eight students, the best of them.
demo: $(READY)
	@rm -rf $(DEMO)/teacher $(DEMO)/sweep
	$(BIN)/rdistill data synthetic $(DEMO)/data --num-train 200 --num-val 60 --size 128 --seed 0
	$(BIN)/rdistill train configs/teacher/$(SLIM).py $(ARGS) --iters 400 --val-interval 100 --work-dir $(DEMO)/teacher
	$(BIN)/rdistill sweep sweeps/demo.yaml $(ARGS) --iters 300 --val-interval 100 --teacher-checkpoint $(DEMO)/teacher/best.pth --work-dir $(DEMO)/sweep
	$(BIN)/rdistill eval $(DEMO)/sweep/best.py $(DEMO)/sweep/best.pth
	$(BIN)/rdistill report $(DEMO)/sweep

lint: $(READY)
	$(BIN)/ruff check rdistill tests benchmarks setup.py
	$(BIN)/ruff format --check rdistill tests benchmarks setup.py
	$(BIN)/mypy

# Two at a time, on a thread each: those that start whole commands, tests/e2e/test_*.py, need the machine for
# themselves.
TWO_AT_A_TIME := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test: lint test-unit
	$(TWO_AT_A_TIME) tests/e2e/*/ -m "not slow"
	$(BIN)/python -m pytest tests/e2e/test_*.py -m "not slow"

test-unit: $(READY)
	$(TWO_AT_A_TIME) tests/unit -m "not slow"

test-all: test
	$(BIN)/python -m pytest -m slow

bench: $(READY)
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build *.egg-info
