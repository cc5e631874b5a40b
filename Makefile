# `make demo` and `make test` do all of their own set-up and can be run again.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
SECONDS_FUZZ ?= 300

.PHONY: build demo test lint fuzz test-asan bench clean

build: .venv/built

# Debian packages that the build and the tests use; the ones that are missing are installed.
.venv/packages: tools/packages.sh
	mkdir -p .venv && tools/packages.sh && touch $@

.venv/bin/pip: .venv/packages
	$(PYTHON) -m venv .venv && $(BIN)/pip install --quiet --upgrade pip && touch $@

.venv/built: .venv/bin/pip pyproject.toml setup.py $(wildcard relay_ext/*.pyx relay_ext/*.pxd relay_ext/csrc/*)
	$(BIN)/pip install --quiet --editable '.[dev]' && touch $@

demo: build
	$(BIN)/relay demo $(DEMO)

test: build lint
	$(BIN)/python -m pytest tests

lint: build
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

fuzz: build
	RELAY_FUZZ_SECONDS=$(SECONDS_FUZZ) RELAY_FUZZ_ROUNDS=100000 $(BIN)/python -m pytest tests/fuzz -s

bench: build
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-only -s

clean:
	rm -rf .venv build dist *.egg-info relay_ext/*.so
