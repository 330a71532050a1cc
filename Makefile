# `make` lists the targets. The first one that needs the environment installs it; later ones do not.
.DEFAULT_GOAL := help
SHELL := /bin/sh

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# The home: everything made at run time. `make demo HOME_DIR=/tmp/home` uses another one.
HOME_DIR ?= $(or $(MLOPS_HOME),$(CURDIR)/data)
UNTIL ?= 2013-03-31
ONLY ?=
WORKERS ?= 2

BIN := .venv/bin
STAMP := .venv/.installed

# Nothing phones home, and nothing asks whether it may.
export DAGSTER_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: install demo dev mlflow test verify check bench lock clean help

install: $(STAMP) .env ## make .venv from the lock; again only when the lock or pyproject.toml changed

demo: install ## replay real flights, 2013-01-01 to UNTIL, through the whole loop
	$(BIN)/mlops replay flight_delays --until $(UNTIL) --home "$(HOME_DIR)"

dev: install ## Dagster UI with daemon and sensors on the same home
	$(BIN)/mlops dev --home "$(HOME_DIR)"

mlflow: install ## MLflow registry of the same home
	$(BIN)/mlops mlflow --home "$(HOME_DIR)"

# One file stays on one worker, so that what a file prepares once is prepared once.
test: install ## the fast suite, doctests included
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

verify: install ## the long proofs at full size; output under verification/
	$(BIN)/python -m verification.run

# The definitions load in a home of their own, with the settings that ship.
check: install ## ruff, mypy, layer rules, component YAML, definitions load
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	@home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT && ln -s "$(CURDIR)/dagster.yaml" "$$home/" \
	  && export DAGSTER_HOME="$$home" MLOPS_HOME="$$home" \
	  && $(BIN)/dg check yaml && $(BIN)/dg check defs --no-check-yaml

bench: install ## benchmarks against their bounds; ONLY=prefix runs some
	$(BIN)/python -m benchmarks.run $(if $(ONLY),--only $(ONLY))

lock: install ## resolve the dependencies anew into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --quiet -o requirements.lock

clean: ## remove .venv and caches; data stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

# uv itself comes from the lock as well. Bytecode is compiled here: with PYTHONDONTWRITEBYTECODE in
# the environment nobody else would, and every import would take three to four times as long.
$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, found: $$($(or $(PYTHON),false) --version 2>&1 || echo none)." >&2; \
	  echo "Install it, or say where it is: make install PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	awk '/^uv==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements.lock > .venv/uv.txt
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r .venv/uv.txt
	$(BIN)/uv pip sync --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# For `dagster` and `dg`, which take this file's values over the shell's: hence the ${NAME:-default}.
.env:
	@printf 'DAGSTER_HOME=$${DAGSTER_HOME:-%s/data/dagster}\nMLOPS_HOME=$${MLOPS_HOME:-%s/data}\n' \
	  "$(CURDIR)" "$(CURDIR)" > $@
