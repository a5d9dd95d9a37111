# Everything happens in .venv, which is made on first use; later runs start at once.
PYTHON ?= python3.11

BIN := .venv/bin
DEV := .venv/.installed
DOCS := .venv/.installed-docs
PINS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test docs lint clean

help:
	@echo "make demo   run the quickstart notebook; leaves build/demo/quickstart.html and .png"
	@echo "make test   lint, format check, tests"
	@echo "make docs   build the documentation; leaves build/docs/index.html"
	@echo "make lint   mend what ruff can mend, then format"
	@echo "make clean  remove .venv, build and caches"

demo: $(DEV)
	$(BIN)/python scripts/demo.py

test: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pytest

lint: $(DEV)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(DOCS)
	$(BIN)/sphinx-build -W --keep-going -b html docs build/docs

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache docs/generated
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "'$(PYTHON)' is missing or older than Python 3.11. Install Python 3.11 or newer,"; \
	  echo "or name one that you have: make PYTHON=/path/to/python3.12 demo"; \
	  exit 1; }
	$(PYTHON) -m venv .venv

# The stamps are newer than the pins once the installation has gone through.
$(DEV): $(PINS) | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e ".[test,demo,parity]"
	@touch $@

$(DOCS): $(PINS) | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e ".[docs]"
	@touch $@
