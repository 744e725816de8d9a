# Everything a contributor types. `make help` lists the targets; each says what it does.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
MADE   := $(VENV)/.made-from-lock
# One process more than there are cores: tests wait for servers they start, for a fifth of their time.
PYTEST ?= $(BIN)/pytest --numprocesses $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The commit that comparisons call "before": the last one under the first layout.
BEFORE_COMMIT := 0a6163d6589518fadab70e3cfc8a08a5d72bb0c3
BEFORE := var/bench/before

# `make campaign NAME`: the second goal is a name, not something to make.
ifeq (campaign,$(firstword $(MAKECMDGOALS)))
ifneq (,$(word 3,$(MAKECMDGOALS)))
$(error One campaign at a time; what it is told goes into ARGS, as in make campaign NAME ARGS="--pairs 9")
endif
ifneq (,$(word 2,$(MAKECMDGOALS)))
NAME := $(word 2,$(MAKECMDGOALS))
.PHONY: $(NAME)
$(NAME): ; @:
endif
endif

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-full leaks lint format types layers env up down bench-before campaign lock clean

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: env ## Import real shop data, train, serve, withdraw consent: the whole platform in minutes
	@$(BIN)/aap demo

test: lint types layers ## Check style, types and layers, then run the tests
	@$(PYTEST) -m "not full and not spark"

test-fast: env ## Only the tests of pure functions: no process is started, under a minute
	@$(BIN)/pytest -m fast $$(grep -rl --include='test_*.py' 'mark\.fast' tests)

test-full: lint types layers ## The same, with the tests that take long: Spark, and the whole demo data
	@$(PYTEST)

leaks: env ## Plant deliberate leaks, one at a time, and see whether the tests catch each
	@$(BIN)/python -m tests.noninterference.plant

lint: env ## Check style and formatting (ruff)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --check .; exit 1; }

format: env ## Put style and formatting right (ruff)
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

types: env ## Check types (mypy, strict)
	@$(BIN)/mypy

layers: env ## Check that imports point one way (import-linter)
	@$(BIN)/lint-imports --no-logo

up: env ## Start Redis, the prediction service and the MLflow and Feast pages
	@$(BIN)/aap up

down: env ## Stop them
	@$(BIN)/aap down

bench-before: ## Make the tree and environment that comparisons call "before" (var/bench/before)
	@git rev-parse --quiet --verify $(BEFORE_COMMIT)^{commit} >/dev/null \
		|| { echo "This clone lacks commit $(BEFORE_COMMIT): fetch the history (git fetch --unshallow) and try again." >&2; exit 1; }
	@git worktree prune
	@test -e $(BEFORE)/.git || git worktree add --quiet --force --detach $(BEFORE) $(BEFORE_COMMIT)
	@test "$$(git -C $(BEFORE) rev-parse HEAD)" = $(BEFORE_COMMIT) || git -C $(BEFORE) checkout --quiet --detach $(BEFORE_COMMIT)
	@$(MAKE) --no-print-directory -C $(BEFORE) env
	@echo "Before is $(abspath $(BEFORE)), commit $$(git -C $(BEFORE) rev-parse --short HEAD)."

campaign: env ## Measure what takes hours, into docs/campaigns: make campaign NAME [RESUME=1] [ARGS="…"]
	@$(BIN)/python -m benchmarks.campaigns $(NAME) $(if $(RESUME),--resume) $(ARGS)

env: $(MADE) ## Make .venv from requirements.lock; nothing to do unless the lock changed

$(MADE): requirements.lock pyproject.toml clients/python/pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v < (3, 11) and sys.exit("$(PYTHON) is Python %d.%d, and 3.11 or newer is needed: name another, as in make PYTHON=python3.11 env" % v)'
	@echo "Making $(VENV) from requirements.lock: about a minute the first time."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable clients/python --editable .
	@touch $@

lock: env ## Choose versions anew and write requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --quiet --upgrade \
		--no-emit-index-url --no-emit-find-links --no-emit-package aap-client --custom-compile-command "make lock" -o requirements.lock

clean: ## Remove .venv and caches; the data under var/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
