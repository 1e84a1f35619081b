PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)

.PHONY: install search test test-slow coverage lint docs example clean

install: .venv/installed  ## make .venv with the pinned dependencies

.venv/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	$(PIP) torch numpy
	$(PIP) --editable '.[dev]'
	touch $@

search: install  ## the quick start: a whole search on an embedded data set, about four minutes on two cores
	$(BIN)/nas-distill search runs/quickstart.yaml

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell --dictionary - --dictionary .codespell-dictionary.txt
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint  ## lint, type-check, quick tests
	$(BIN)/python -m pytest

test-slow: install  ## real processes killed, long searches
	$(BIN)/python -m pytest -m slow

coverage: install  ## quick tests, and the lines that they do not run
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered

docs: install  ## the documentation as a site in build/site, links checked
	$(PIP) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

example: install  ## make the committed run again, with all that shows it: README's picture, the notebook's outputs
	rm -rf runs/example
	$(BIN)/nas-distill search runs/quickstart.yaml --folder runs/example
	cp runs/example/front.png docs/quickstart-front.png
	$(BIN)/python notebooks/execute.py

clean:
	rm -rf .venv
