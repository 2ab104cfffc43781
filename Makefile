# Every target sets up first; that takes no time once it is done. ARGS go to the command:
#   make test ARGS='-k kafka'
# Tests mostly wait for servers: three processes, each with MongoDB and Kafka of its own, take less than half the time of one.
.PHONY: setup demo test test-slow dev check bench faults
.DEFAULT_GOAL := setup

setup:
	@scripts/setup

demo: setup
	@.venv/bin/meters demo $(ARGS)

test: setup
	@scripts/setup --browser
	@.venv/bin/python -m local_stack.jars all > /dev/null
	.venv/bin/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: setup
	@.venv/bin/python -m local_stack.jars all > /dev/null
	.venv/bin/pytest -n 2 --dist loadfile -m slow $(ARGS)

dev: setup
	@.venv/bin/meters dev $(ARGS)

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/dagster definitions validate -w workspace.yaml

bench: setup
	@.venv/bin/meters bench $(ARGS)

faults: setup
	@.venv/bin/meters faults $(ARGS)
