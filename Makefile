# `make help` shows the targets. Nothing here needs more than make and Python; `setup` brings the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-with-molecule test-beside-it test-units test-without-hosts test-unit test-unit-as-nobody test-platforms newest test-newest soak bench lint sanity lab lab-down lock clean

PYTHON ?= python3
NEWEST ?= python3.13
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# Python keeps what it compiles in .cache, whatever the environment says: compiling takes a third of every Ansible run.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/.cache/pycache

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## install what the project needs (virtual environment, podman, mmdebstrap, SSH client)
	@$(PYTHON) tools/setup.py

demo: setup ## release real pictures' service to three lab hosts, upgrade it, refuse a bad one (LIBRARY=dir for your own pictures)
	@$(BIN)/python -m tools.demo $(if $(LIBRARY),--library "$(LIBRARY)")

test: setup lint ## lint, types, unit, contract, integration, Molecule, end to end (half an hour on two cores)
	@mkdir -p test-results
	@echo "Three series at once; each is shown as it ends. To follow them: tail -f test-results/*.log"
	@$(MAKE) --jobs=3 --keep-going --output-sync=line --no-print-directory test-with-molecule test-beside-it test-units

# Much of a test with hosts is waiting, so two series of equal length run at once. No two tests share a lab: the
# checkout's own is Molecule's.
WITH_MOLECULE := $(addprefix tests/,molecule integration/lab integration/switch integration/service integration/bundle)
test-with-molecule:
	$(PYTEST) -m "not soak" $(WITH_MOLECULE) --junitxml=test-results/with-molecule.xml 2>&1 | tee test-results/with-molecule.log

test-beside-it:
	$(PYTEST) -m "not soak" tests/integration tests/faults tests/fuzz tests/end_to_end $(WITH_MOLECULE:%=--ignore=%) --junitxml=test-results/beside-it.xml 2>&1 | tee test-results/beside-it.log

# They take what time the two leave: they have few deadlines. Unit tests share nothing, so they run in parallel and in
# random order.
test-units:
	nice -n 10 $(UNIT_TESTS) -m "not soak" --junitxml=test-results/unit.xml 2>&1 | tee test-results/unit.log

UNIT_TESTS = $(PYTEST) -n 2 -p randomly --randomly-seed=$(SEED) tests/unit tests/contract
SEED ?= default

test-without-hosts: setup ## all unit and contract tests, in random order (REPORT= takes more options of pytest)
	@mkdir -p test-results
	$(UNIT_TESTS) -m "not soak" $(REPORT)

# In one process: a second one spends ten seconds more of processor time to import and collect the same tests.
test-unit: setup ## the quick loop: unit and contract tests without the slow ones, in random order (SEED=n repeats one)
	$(UNIT_TESTS) -n 0 -m "not soak and not slow"

# A copy, because an ordinary user has a checkout of his own; git needs one that is his.
NOBODY := $(or $(TMPDIR),/tmp)/mobius-test-unit-as-nobody
test-unit-as-nobody: setup ## all unit and contract tests as an ordinary user without a home folder (needs root)
	rm -rf $(NOBODY) && mkdir -p $(NOBODY)
	git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read | tar --extract --directory=$(NOBODY)
	ln -s $(CURDIR)/.venv $(NOBODY)/.venv
	git -C $(NOBODY) init --quiet && git -C $(NOBODY) add --all
	chown -R -h 65534:65534 $(NOBODY)
	cd $(NOBODY) && setpriv --reuid=65534 --regid=65534 --clear-groups env -u HOME \
		PYTHONPYCACHEPREFIX=$(NOBODY)/.cache/pycache $(PYTEST) -p no:cacheprovider -n 2 -p randomly --randomly-seed=$(SEED) \
		-m "not soak" tests/unit tests/contract
	rm -rf $(NOBODY)

test-platforms: setup ## the tests of mobius.dhash without what Python lacks on macOS and on Windows (a simulation)
	for platform in macos windows; do \
		MOBIUS_TEST_PLATFORM=$$platform PYTHONPATH=$(CURDIR)/tests/platforms $(PYTEST) -m "not soak" tests/unit/dhash; \
	done

newest: setup
	$(NEWEST) -m venv --clear .cache/newest
	.cache/newest/bin/python -m pip install --quiet --upgrade pip
	.cache/newest/bin/python -m pip install --quiet --upgrade --editable ".[service,control,heic]" --group development $(if $(ANSIBLE),"ansible-core~=$(ANSIBLE).0")
	.cache/newest/bin/python -m pip list | grep -E "^(ansible|molecule|numpy|pillow)"

test-newest: newest ## the same and the runs, with the newest dependencies that pyproject.toml allows (NEWEST=python3.13 ANSIBLE=2.20)
	.cache/newest/bin/python -m pytest -m "not soak" tests/unit tests/contract tests/integration/runs

# The series of faults keeps its progress in .cache/faults: the next soak goes on with other seeds.
MINUTES ?= 30
soak: bench ## the long series, whole (with the benchmarks' peers), and half an hour of faults (MINUTES=n for more)
	failed=0; \
	$(PYTEST) -m soak || failed=1; \
	$(BIN)/python -m tests.faults.series --minutes $(MINUTES) || failed=1; \
	exit $$failed

bench: setup ## install the peers that bench/ measures beside us (then run bench/NAME.py; --help tells how)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement tools/locks/bench.txt
	@ls bench/*.py

sanity: setup ## ansible-test sanity of the collection, on a copy of it (downloads its linters)
	$(BIN)/python -m tools.sanity

lint: setup ## ruff, mypy, yamllint, ansible-lint, and what audits the workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/yamllint --strict .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/ansible-lint --offline --strict
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-actions .github/actions/*/action.yml
	$(BIN)/zizmor --offline --quiet .github
	@$(BIN)/python -m tools.evidence lint

lab: setup ## start three systemd hosts reached over SSH on 127.0.0.1
	@$(BIN)/mobius lab up

lab-down: ## remove the lab's hosts and their state
	@if test -x $(BIN)/mobius; then $(BIN)/mobius lab down; else echo "Nothing was set up here, so there is no lab."; fi

lock: setup ## renew the hashed lock files from pyproject.toml
	$(BIN)/python -m tools.lock

clean: ## remove the lab, its base images, the virtual environment and all that was built
	@test ! -d .cache/end_to_end || test ! -x $(BIN)/mobius || $(BIN)/mobius lab down --root .cache/end_to_end
	@test ! -x $(BIN)/mobius || $(BIN)/mobius lab down --images
	rm -rf .venv .lab .cache dist demo build test-results *.egg-info
	find .ansible -mindepth 1 -maxdepth 1 ! -name collections -exec rm -rf {} +  # that holds a link of the checkout
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
