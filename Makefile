# The interpreter of the virtual environment, 3.11 or later; Debian's if there is none yet.
PYTHON ?= python3
BIN = .venv/bin
PYTEST = $(BIN)/pytest

export PYTHON PREFIX SYSCONFDIR DESTDIR

.DEFAULT_GOAL = help
.PHONY: help provision provision-tests provision-system debians venv run demo tour lint types contracts manual test test-unit \
	test-process test-broker test-daemon test-system test-pika check chaos soak bench bench-scale install uninstall dist clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

provision:
	@dev/provision

provision-tests:
	@dev/provision tests

venv: .venv/.ready  ## make .venv and everything it needs (asks apt for Python, RabbitMQ, …)

# Made anew when the dependencies change. The stamp comes last: an interrupted build is done again.
.venv/.ready: setup.cfg pyproject.toml | provision
	@echo "venv: making .venv (half a minute)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

run: venv  ## RabbitMQ, supervisord and four workers, in the foreground; Ctrl-C ends them all
	@$(BIN)/python -m dev.run

demo: venv  ## the same unattended: kills, reload, restart, and figures; about 40 seconds
	@$(BIN)/python -m dev.demo

tour: venv  ## every way in which a message can end, told while it happens; half a minute
	@$(BIN)/python -m dev.tour

lint: venv  ## ruff
	$(BIN)/ruff check

types: venv  ## mypy --strict
	$(BIN)/mypy

contracts: venv  ## who may import whom
	$(BIN)/lint-imports

manual: venv  ## write man pages, shell completions and the JSON Schema anew
	@$(BIN)/python -m dev.manual

# Three files at a time, each process with a broker of its own: the tests wait more than they work. In this order, so that
# none of the long ones is left for the end, when the other processes have nothing to do.
test: venv provision-tests  ## all tests but those of test-system
	$(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder --durations 15 tests/unit tests/process tests/broker tests/daemon

provision-system:
	@dev/provision system

# What test-system boots, two minutes each: test-system makes them as well, if nobody did.
debians: venv provision-system
	@PYTHONPATH=tests $(BIN)/python -m system.debian

# The two Debians at a time.
test-system: venv provision-system  ## `make install` under systemd on Debian 12 and 13; root, six minutes
	$(PYTEST) -n 2 tests/system

test-unit: venv provision-tests  ## tests that need nothing
	$(PYTEST) tests/unit

test-process: venv provision-tests  ## tests with real processes, without a broker
	$(PYTEST) tests/process

test-broker: venv provision-tests  ## tests with a real RabbitMQ
	$(PYTEST) tests/broker

test-daemon: venv provision-tests  ## tests of the whole daemon: RabbitMQ, supervisord
	$(PYTEST) tests/daemon

# PIKA=1.4.2: is the short way past pika's own loop there, and right, with another release than the newest that we allow?
test-pika: provision-tests  ## what depends on pika's inner parts, with another release of it: PIKA=1.4.2
	@$(PYTHON) -m venv --clear .venv-pika
	@.venv-pika/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@.venv-pika/bin/pip install --quiet --disable-pip-version-check --no-deps 'pika==$(or $(PIKA),1.4.2)'
	.venv-pika/bin/pytest -n 2 --dist loadfile tests/unit/test_hotpath.py tests/unit/test_outgoing.py tests/broker

check: lint types contracts test  ## everything that must pass before a commit

# SEED=1 MINUTES=10 TASKS=1000000 FAULTS=300 BROKER=4.0 TYPE=classic RATE=300 WORKERS=8 ONLY="worker killed": all optional.
chaos: venv  ## the daemon under a steady load while all breaks around it; 10 minutes
	@PYTHONPATH=tests:. $(BIN)/python -m chaos.run $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(TASKS),--tasks $(TASKS)) $(if $(FAULTS),--faults $(FAULTS)) $(if $(BROKER),--broker $(BROKER)) \
		$(if $(TYPE),--type $(TYPE)) $(if $(RATE),--rate $(RATE)) $(if $(WORKERS),--workers $(WORKERS)) \
		$(if $(ONLY),--only "$(ONLY)")

soak: venv  ## an hour at full rate, to see that nothing grows; MINUTES=60
	@PYTHONPATH=tests:. $(BIN)/python -m chaos.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(TYPE),--type $(TYPE))

# The peers live in an environment of their own: nobody else needs them.
.venv-bench/.ready: setup.cfg pyproject.toml
	@dev/provision bench
	@echo "bench: making .venv-bench (half a minute)"
	@$(PYTHON) -m venv --clear .venv-bench
	@.venv-bench/bin/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

# ONLY=consume QUICK=1: a part of it, or small rounds to try the bench itself, whose report goes to .run/bench.
bench: .venv-bench/.ready  ## speed and memory beside C, pika, Dramatiq and Celery; docs/benchmarks.md; 15 minutes
	@.venv-bench/bin/python -m bench.run $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick --docs .run/bench)

bench-scale: .venv-bench/.ready  ## up to 512 workers, 128 queues, a million messages; docs/scaling.md; 10 minutes
	@.venv-bench/bin/python -m bench.scale $(if $(QUICK),--quick)

install:  ## for the whole machine, as root: PREFIX=/usr/local SYSCONFDIR=/etc DESTDIR=
	@dev/install install

uninstall:  ## undo it, but keep the configuration
	@dev/install uninstall

dist: venv  ## a wheel, in dist/
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

clean:  ## remove all that make made, but your workqueued.yaml
	rm -rf .venv .venv-bench .venv-pika .run dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
