# Everything starts from a machine with Python 3.10-3.13 and make; `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs/demo
BIN = $(VENV)/bin
PY = $(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help install demo dist docs docs-links test test-slow test-wheel test-lowest lint format clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# The stamp is newer than setup.py once everything in it is installed: later calls need no network.
$(VENV)/.installed: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else "Python 3.10 to 3.13 is needed, this is %d.%d; name another: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed ## Create .venv and install the package with its test dependencies

DEMO_FLAGS = --dataset digits --model cnn --train-size 300 --epochs 40 --batch-size 60 --seed 0

demo: $(VENV)/.installed ## Train with and without the regulariser on real digits, then compare (minutes)
	$(PY) train_cifar.py $(DEMO_FLAGS) --regularize never --run-dir $(RUNS)/plain
	$(PY) train_cifar.py $(DEMO_FLAGS) --regularize always --beta 50 --run-dir $(RUNS)/regularized
	$(PY) characterize.py $(RUNS)/plain $(RUNS)/regularized --num-trials 20 --num-samples 50 --equalize-loss 0.01 \
	  --out $(RUNS)/comparison
	@echo "picture: $(RUNS)/comparison/comparison.png"

WHEEL_VENV ?= build/wheel-env

dist: $(VENV)/.installed ## Build the wheel and the sdist, and check what the registry would show
	rm -rf dist build/lib
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*

# The environment is kept: only the first call installs TensorFlow.
test-wheel: dist ## Install the wheel into an environment of its own and run the demo's commands from another folder
	test -x $(WHEEL_VENV)/bin/python || $(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/pip install --quiet --upgrade dist/*.whl
	$(WHEEL_VENV)/bin/pip install --quiet --no-deps --force-reinstall dist/*.whl
	sh tests/wheel/run_demo.sh $(abspath $(WHEEL_VENV)/bin) $(DEMO_FLAGS)

test: $(VENV)/.installed ## Run the default test suite, in two processes
	$(PY) -m pytest -q -m "not slow" -n 2 --dist loadfile

test-slow: $(VENV)/.installed ## Run the tests that take longer
	$(PY) -m pytest -q -m slow

$(VENV)/.docs: setup.py $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[docs]'
	@touch $@

docs: $(VENV)/.docs ## Build the documentation site, tutorials executed, in docs/_build/html; a warning is an error
	@echo "about five minutes on two cores; a tutorial that has not changed is not run again"
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs docs/_build/html
	@echo "site: docs/_build/html/index.html"

docs-links: $(VENV)/.docs ## Follow the site's links to other sites (needs a network)
	$(BIN)/sphinx-build --quiet -b linkcheck docs docs/_build/linkcheck

LOWEST_VENV ?= build/lowest-env

test-lowest: $(VENV)/.installed ## Run the default test suite with the oldest versions that setup.py allows
	$(BIN)/uv venv --quiet --allow-existing --python $(PYTHON) $(LOWEST_VENV)
	$(BIN)/uv pip install --quiet --python $(LOWEST_VENV)/bin/python --resolution lowest-direct '.[test]'
	$(LOWEST_VENV)/bin/python -m pytest -q -m "not slow" -n 2 --dist loadfile

lint: $(VENV)/.installed ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and the demo's runs
	rm -rf $(VENV) runs/demo
