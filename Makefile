# Each target does its own set-up into .venv; nothing else on the machine is touched. See `make help`.

PYTHON ?= python3
BIN := .venv/bin
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes

.DEFAULT_GOAL := help
.PHONY: help demo stop status test check lock bench set-up set-up-dev

help:  ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST)

demo: set-up  ## Start S3, MLflow, Airflow and the scoring service here, run the whole loop; the services stay up.
	@$(BIN)/python -m perennial_demo demo

stop:  ## End every process of the demo.
	@if ! $(BIN)/python -c 'import perennial_demo.stack' 2>/dev/null; then $(MAKE) --no-print-directory set-up; fi
	@$(BIN)/python -m perennial_demo down

status: set-up  ## Show how the demo's services are doing.
	@$(BIN)/python -m perennial_demo status

# The tests of the real services are last and one at a time: they have the machine to themselves.
test: set-up-dev  ## Run all tests; ARGS="tests/unit -x" chooses.
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/python -m pytest -n 2 --ignore=tests/system
	$(BIN)/python -m pytest tests/system
endif

check: set-up-dev  ## Lint, format, types and import rules; what the commit hook and CI run.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: set-up-dev  ## Run all benchmarks, or one: make bench NAME=cycle
	@set -e; for file in $(if $(NAME),bench/$(NAME).py,$(sort $(wildcard bench/*.py))); do \
		echo "== $$file"; $(BIN)/python "$$file"; done

lock: set-up  ## Resolve requirements*.in anew (keeps pins that still fit; UPGRADE=--upgrade renews them).
	$(COMPILE) $(UPGRADE) requirements.in -o requirements.txt
	$(COMPILE) $(UPGRADE) requirements-dev.in -o requirements-dev.txt
	$(COMPILE) $(UPGRADE) requirements-core.in -o requirements-core.txt

set-up:
	@$(PYTHON) scripts/set_up.py run

set-up-dev:
	@$(PYTHON) scripts/set_up.py dev
