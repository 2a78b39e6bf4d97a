# The two commands: `make demo` and `make test`. Needs Python 3.11+, a C++ compiler and a package index; everything else
# comes from there into .venv. Also: `make test-quick`, `make sanitize`, `make clean`.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
export PATH := $(CURDIR)/$(BIN):$(PATH)
SOURCES := $(shell find src csrc -type f -not -name '*.so' -not -path '*/__pycache__/*') CMakeLists.txt pyproject.toml

.PHONY: demo test test-quick sanitize clean

demo: .venv/installed
	@examples/demo.sh

test: .venv/installed-for-tests
	ruff check .
	ruff format --check .
	mypy
	pytest

# An answer in two minutes, with small packages alone: no torch, no browser, nothing slow.
test-quick: .venv/installed-for-quick-tests
	pytest -m "not slow"

# The native core under AddressSanitizer and UBSan, then under ThreadSanitizer (what has threads).
sanitize: .venv/installed-for-tests
	PATH="$(CURDIR)/$(BIN):$$PATH" csrc/tests/run address
	PATH="$(CURDIR)/$(BIN):$$PATH" csrc/tests/run thread reader pool kv_cache

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Flash-MoE needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/made $(SOURCES)
	@echo "Building and installing Flash-MoE into .venv, a minute or so the first time."
	@$(PIP) install .
	@touch $@

.venv/installed-for-tests: .venv/made $(SOURCES)
	@echo "Building and installing Flash-MoE with what its tests need (torch among it) into .venv."
	@$(PIP) install '.[test,dev]'
	@touch .venv/installed $@

.venv/installed-for-quick-tests: .venv/made $(SOURCES)
	@echo "Building and installing Flash-MoE with what its quick tests need into .venv."
	@$(PIP) install '.[quick]'
	@touch .venv/installed $@

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
