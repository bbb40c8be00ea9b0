PYTHON ?= python3
BIN := .venv/bin
PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all test-lowest docs package chaos validity lint format clean

demo: .venv/.installed  ## the whole pipeline on the built-in model and data
	rm -rf runs/demo
	$(BIN)/headmask demo --out runs/demo

test: .venv/.installed-test lint  ## everything that must hold before a commit
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not gpu"

test-all: .venv/.installed-test lint  ## the slow tests, too
	$(BIN)/python -m pytest $(PARALLEL) -m "not gpu"

test-lowest: .lowest/.installed  ## the tests on the oldest versions that are supported, in an environment of its own
	.lowest/bin/python -m pytest $(PARALLEL) -m "not slow and not gpu" --ignore tests/deploy --ignore tests/docs --ignore tests/benchmarks

docs: .venv/.installed-docs  ## the site in build/site; every warning is an error
	$(BIN)/python docs/generate.py
	$(BIN)/python -m sphinx --fresh-env --fail-on-warning --keep-going --quiet -c docs . build/site

package: .venv/.installed-package  ## wheel and source archive in dist/, checked
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

chaos: .venv/.installed-test  ## searches disturbed in every known way; forty minutes on two cores
	$(BIN)/python -m tests.chaos

validity: .venv/.installed-test  ## how often a search claims what is not there, and finds what is; half an hour on two cores
	$(BIN)/python -m benchmarks.validity

lint: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .lowest runs

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/.installed-test: .venv/.installed pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

.venv/.installed-docs: .venv/.installed pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

.lowest/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .lowest
	.lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[test]'
	touch $@

.venv/.installed-package: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt build twine
	touch $@
