# Two commands: `make demo` and `make test`. Each sets up .venv first, from Python 3.11 or later alone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check clean
.DELETE_ON_ERROR:

demo: .venv/.ready
	$(BIN)/msal-deploy run --out runs/demo

test: .venv/.ready check
	$(BIN)/pytest

check: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=python3.12 …" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[train,zoo,dev]'
	@touch $@

clean:
	rm -rf .venv runs build dist
