# `make demo` and `make test` need Python 3.11 or newer and nothing else.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
CPU_TORCH := https://download.pytorch.org/whl/cpu
VERSIONS := 3.11 3.12 3.13 3.14
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all slow lint bench docs docs-links clean

help:
	@echo "make demo    fit the zoo's models to embedded data and write runs/demo/report.html"
	@echo "make test    the quick tests"
	@echo "make test-all  the quick tests on each of Python $(VERSIONS) that is found"
	@echo "make slow    the slow tests"
	@echo "make lint    ruff: rules and formatting"
	@echo "make bench   every benchmark, one after the other"
	@echo "make docs    the documentation, in docs/_build/html; any warning is an error"
	@echo "make docs-links  the documentation's links to other sites; needs a network"
	@echo "make clean   remove caches and build products (not $(VENV), not runs/)"

install: $(STAMP)

# Installed anew only when the project's requirements change.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { \
		command -v $(PYTHON) >/dev/null 2>&1 || { \
			echo "ppl_zoo: '$(PYTHON)' was not found; install Python 3.11 or newer," \
				"or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
			echo "ppl_zoo needs Python 3.11 or newer, but '$(PYTHON)' is" \
				"$$($(PYTHON) -V 2>&1); name another: make PYTHON=python3.11" >&2; exit 1; }; \
		$(PYTHON) -m venv $(VENV); }
	@# without a GPU, torch's CPU build, where its index can be reached: PyPI's on Linux brings 3 GB
	@$(BIN)/python -c 'import torch' 2>/dev/null || command -v nvidia-smi >/dev/null 2>&1 || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 0 --timeout 5 \
			--index-url $(CPU_TORCH) "$$(grep '^torch==' constraints.txt)" 2>/dev/null || true
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-e '.[test]' -c constraints.txt
	@touch $@

demo: $(STAMP)
	$(BIN)/ppl-zoo demo

# on all cores, one thread each: tests/conftest.py
test: $(STAMP)
	$(BIN)/pytest -n auto --dist worksteal

# an environment each, .venv-3.12 and its like
test-all:
	@set -e; for version in $(VERSIONS); do \
		if python$$version -c '' 2>/dev/null; then \
			echo "== Python $$version"; \
			$(MAKE) test PYTHON=python$$version VENV=.venv-$$version; \
		else echo "== Python $$version: not found"; fi; done

slow: $(STAMP) $(DOCS_STAMP)
	$(BIN)/pytest -m slow -n auto --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(STAMP)
	@set -e; for program in benchmarks/*.py; do \
		test -e "$$program" || continue; \
		echo "== $$program"; $(BIN)/python "$$program"; done

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-e '.[docs]' -c constraints.txt
	@touch $@

# links between the pages are followed afterwards, anchors too
docs: $(DOCS_STAMP)
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html -d docs/_build/doctrees \
		docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html

# nothing is run: the examples are only read
docs-links: $(DOCS_STAMP)
	$(BIN)/python -m sphinx -n -q -D plot_gallery=0 -b linkcheck -d docs/_build/doctrees \
		docs docs/_build/links

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	rm -rf docs/_build docs/api docs/gallery docs/sg_execution_times.rst
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print | xargs rm -rf
