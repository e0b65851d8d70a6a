# `make demo` shows what BitLeak does; `make test` checks that it still does.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

.PHONY: demo check test test-fast test-lowest
demo: $(VENV)/.installed
	$(BIN)/python train.py --config recipes/digits.yaml
	$(BIN)/python audit.py --run_dir runs/digits

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(PYTEST) -m "not slow and not gpu"

# without the tests that train whole fleets
test-fast: check
	$(PYTEST) -m "not slow and not gpu and not fleet"

# with the lowest versions that pyproject.toml claims, in an environment of its own; without ruff
# and mypy, whose verdicts change from version to version
test-lowest:
	$(PYTHON) .github/lowest_versions.py pyproject.toml > .lowest.txt
	PIP_CONSTRAINT=$(CURDIR)/.lowest.txt $(MAKE) VENV=.venv-lowest .venv-lowest/.installed-test
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q -n 2 -m "not slow and not gpu"

$(VENV)/.installed: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@
