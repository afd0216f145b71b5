PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := ci/constraints-cpu.txt
# compared with in tests/oracles; without their dependencies, which no test needs and which hold a second copy of torch's libraries
ORACLES := torchcfm azula torchmetrics lightning-utilities
# whose loops docs/guides/own-loop.md runs in
LOOPS := accelerate lightning-fabric
STAMP := $(VENV)/.installed

.PHONY: demo test quick lint slow fuzz docs clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# the command alone needs no developer tools, so that the demo installs as little as it can
$(STAMP): $(BIN)/python pyproject.toml $(CONSTRAINTS)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e .
	touch $@

$(STAMP)-dev: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e ".[dev]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(ORACLES) $(LOOPS)
	touch $@

$(STAMP)-docs: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e ".[docs]"
	touch $@

demo: $(STAMP)
	$(BIN)/matchlib distill --teacher flow --student onestep

test: $(STAMP)-dev
	$(BIN)/python -m pytest -n auto

.PHONY: wheel
# what would be released: source archive and wheel, checked, and the wheel tried in an environment that holds nothing else
wheel: $(STAMP)-dev
	rm -rf dist build/wheel
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) dist/*.whl
	ci/try_wheel build/wheel/bin

# a subset in about a minute: everything but the laws, runs through the command line, and documentation
quick: $(STAMP)-dev
	$(BIN)/python -m pytest -n auto tests/unit -m "not slow and not runs"

slow: $(STAMP)-dev
	$(BIN)/python -m pytest -m slow

# wrong inputs by the thousand, for an hour at most; the same call goes on, and benchmarks/results/fuzz.json has what failed
fuzz: $(STAMP)-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.robustness.fuzz --minutes 60

lint: $(STAMP)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python ci/words.py

# the site, without a network and without a warning; build/site/index.html
docs: $(STAMP)-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
