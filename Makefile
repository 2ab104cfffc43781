# Every target sets up first; that takes no time once it is done. ARGS go to the command:
#   make test ARGS='-k kafka'
# Tests mostly wait for servers: three processes, each with MongoDB and Kafka of its own, take less than half the time of one.
.PHONY: help setup demo test test-slow dev check bench faults
.DEFAULT_GOAL := setup

help: ## this list
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is missing: Python packages, Java, mongod's libraries, jars
	@scripts/setup

demo: setup ## a simulated city: past days checked, then live with the Dagster UI (ARGS=--once: past days only)
	@.venv/bin/meters demo $(ARGS)

test: setup ## the test suite, on a real MongoDB, Kafka and Spark
	@scripts/setup --browser
	@.venv/bin/python -m local_stack.jars all > /dev/null
	.venv/bin/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: setup ## the tests that take minutes each
	@.venv/bin/python -m local_stack.jars all > /dev/null
	.venv/bin/pytest -n 2 --dist loadfile -m slow $(ARGS)

dev: setup ## the Dagster UI with hot reload, on the running services
	@.venv/bin/meters dev $(ARGS)

check: setup ## style, who imports whom, types, and Dagster's definitions
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/pyright
	.venv/bin/dagster definitions validate -w workspace.yaml

bench: setup ## speed beside baselines, about an hour (ARGS='--only ingest --quick')
	@.venv/bin/meters bench $(ARGS)

faults: setup ## break the platform on purpose, and count every message
	@.venv/bin/meters faults $(ARGS)
