# MiPy-OTA. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ENV_OK := $(VENV)/.ready
STUBS  := .cache/stubs/.ready
PIP    := $(BIN)/python -m pip -qq --disable-pip-version-check

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- environment -------------------------------------------------------------------------------
.PHONY: setup
setup: $(ENV_OK) ## make .venv with the locked packages and fetch a MicroPython to run on
	@$(BIN)/python -m mipy_ota.tools.micropython

$(ENV_OK): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "\nwhat to do: make setup PYTHON=python3.11")'
	@echo "installing the locked packages into $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "what to do: install python3-venv (Debian: apt install python3-venv)"; exit 1; }
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@
