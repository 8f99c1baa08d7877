# `make help` shows the targets. Nothing here needs more than make and Python; `setup` brings the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit soak bench lint lab lab-down lock clean

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# much of a test with hosts is waiting; tests/conftest.py says what stays together, and what begins first
TWO_AT_ONCE := --numprocesses=2 --dist=loadgroup --no-loadscope-reorder

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## install what the project needs (virtual environment, podman, mmdebstrap, SSH client)
	@$(PYTHON) mobius/control/setup.py

demo: setup ## release real pictures' service to three lab hosts, upgrade it, refuse a bad one (LIBRARY=dir for your own pictures)
	@$(BIN)/python -m mobius.control.demo $(if $(LIBRARY),--library "$(LIBRARY)")

test: setup lint ## lint, types, unit, contract, integration, Molecule, end to end (under 40 minutes on two cores)
	$(PYTEST) -m "not soak" $(TWO_AT_ONCE) --junitxml=test-results/pytest.xml

test-unit: setup ## the quick part: unit and contract tests
	$(PYTEST) -m "not soak" $(TWO_AT_ONCE) tests/unit tests/contract

soak: bench ## the long series, whole (with the benchmarks' peers)
	$(PYTEST) -m soak

bench: setup ## install the peers that bench/ measures beside us (then run bench/NAME.py; --help tells how)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement mobius/control/locks/bench.txt
	@ls bench/*.py

lint: setup ## ruff, mypy, yamllint, ansible-lint, syntax checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/yamllint --strict .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/ansible-lint --offline --strict

lab: setup ## start three systemd hosts reached over SSH on 127.0.0.1
	@$(BIN)/mobius lab up

lab-down: ## remove the lab's hosts and their state
	@if test -x $(BIN)/mobius; then $(BIN)/mobius lab down; else echo "Nothing was set up here, so there is no lab."; fi

lock: setup ## renew the hashed lock files from pyproject.toml
	$(BIN)/python -m mobius.control.locks

clean: ## remove the lab, its base images, the virtual environment and all that was built
	@test ! -x $(BIN)/mobius || $(BIN)/mobius lab down --images
	rm -rf .venv .ansible .lab .cache dist demo build test-results *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
