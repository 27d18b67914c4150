# MiPy-OTA. `make` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check -qq
MIPY    := $(BIN)/mipy
READY   := $(VENV)/.ready
STUBS   := .cache/stubs/.ready
STUB_OTA := .cache/stubs/.ota
STATIC  := ota_server/static/.ready
CHIPS   := esp8266 esp32
PREFIX  ?= $(HOME)/.local
# `make build ARGS=../weather`: further words for mipy, pytest or the demo
ARGS    ?=

.PHONY: help
help: ## List the targets.
	@awk -F':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A folder made by `make offline` brings along what would come from the network.
ifneq ($(wildcard offline),)
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := $(CURDIR)/offline/wheels
endif

# --- environment ----------------------------------------------------------------------------------

.PHONY: setup
setup: $(READY) $(STATIC) ## Make .venv with the locked packages; fetch a MicroPython to run on.
	@if [ -d offline/cache ]; then \
	  cache="$${XDG_CACHE_HOME:-$$HOME/.cache}/mipy-ota"; \
	  mkdir -p "$$cache"; cp -Rn offline/cache/. "$$cache"; \
	fi
	@$(BIN)/python -m mipy_ota.tools.sim.micropython

$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11"; \
	    echo "what to do: make setup PYTHON=python3.11"; exit 1; }
	@echo "installing the locked packages into $(VENV), once"
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "what to do: install venv (Debian: apt install python3-venv)"; exit 1; }
	@$(PIP) install --require-hashes -r requirements-dev.lock || \
	  { echo "what to do: check the network and run the same target again"; exit 1; }
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

# The stamp is the lock that the parts came by: in a copied folder times say nothing.
$(STATIC): $(shell cmp -s ota_server/package-lock.json $(STATIC) || echo FORCE)
	@scripts/static.sh

.PHONY: FORCE
FORCE:

# The boards' stubs shadow the standard library, so each set has a folder of its own.
$(STUBS): requirements-stubs.lock | $(READY)
	@echo "fetching the boards' type stubs, once"
	@rm -rf .cache/stubs
	@$(PIP) download --no-deps --require-hashes -r requirements-stubs.lock -d .cache/stubs/wheels
	@for chip in $(CHIPS); do \
	  $(PIP) install --no-deps --no-index --target .cache/stubs/$$chip \
	    .cache/stubs/wheels/micropython_{$${chip},stdlib}_stubs-*.whl; \
	done
	@touch $@

# `ota` is the name under which an app knows bootloader/resident.py.
$(STUB_OTA): Makefile $(STUBS)
	@for chip in $(CHIPS); do \
	  ln -sf ../../../bootloader/resident.py .cache/stubs/$$chip/ota.py; \
	done
	@touch $@

.PHONY: lock
lock: $(READY) ## Pin the newest packages that pyproject.toml and *.in allow.
	@$(BIN)/python -m venv .cache/lock && .cache/lock/bin/pip -qq install pip-tools
	@compile() { .cache/lock/bin/pip-compile --quiet --upgrade \
	    --generate-hashes --allow-unsafe --strip-extras --no-header --no-annotate \
	    --no-emit-index-url --no-emit-trusted-host --no-emit-find-links "$$@"; }; \
	  compile -o requirements.lock pyproject.toml; \
	  compile -o requirements-dev.lock -c requirements.lock pyproject.toml requirements.in; \
	  compile -o requirements-stubs.lock requirements-stubs.in
	@.cache/lock/bin/pip -qq install uv
	@sed -n '/^psycopg/d; /^aiomqtt/d; s/^\([a-z][a-z0-9-]*\).*/\1/p' requirements.in | while read -r tool; do \
	  sed -n "s/^\($$tool==[^ ]*\).*/\1/p" requirements-dev.lock; done > .cache/lock/tools.txt
	@.cache/lock/bin/uv pip compile --quiet --resolution lowest-direct --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --extra mqtt --extra postgres -o requirements-lowest.lock pyproject.toml .cache/lock/tools.txt

# --- checks ---------------------------------------------------------------------------------------

# The tests wait more than they compute, hence more of them at a time than there are processors.
WORKERS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
# They start Python often, so what it compiles is kept, whatever the environment says.
PYTEST  := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

.PHONY: test
test: packages setup $(STUBS) ## Lint, type-check and test everything.
	@$(MAKE) --no-print-directory --jobs 2 lint test-all

.PHONY: home-assistant
home-assistant: $(READY) ## Install Home Assistant beside the project and hold what is published to its schema.
	@$(PYTHON) -m venv .cache/home-assistant
	@.cache/home-assistant/bin/python -m pip --disable-pip-version-check -qq install homeassistant==2024.3.3 paho-mqtt==1.6.1
	@$(PYTEST) -q tests/server/test_mqtt.py -k home_assistant_takes

.PHONY: check
check: $(READY) $(STUB_OTA) ## The fast lane, about a minute: lint, types and the tests in tests/host.
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint test-host

.PHONY: test-all
test-all:
	@MAKEFLAGS= $(PYTEST) -n $(WORKERS) --dist worksteal $(ARGS)

.PHONY: test-host
test-host:
	@MAKEFLAGS= $(PYTEST) -q -n 2 --dist worksteal $(ARGS) tests/host

LOWEST := .cache/lowest/.ready

$(LOWEST): requirements-lowest.lock
	@echo "installing the lowest versions that pyproject.toml allows, once"
	@rm -rf .cache/lowest && $(PYTHON) -m venv .cache/lowest
	@.cache/lowest/bin/python -m pip --disable-pip-version-check -qq install \
	  --require-hashes -r requirements-lowest.lock
	@.cache/lowest/bin/python -m pip --disable-pip-version-check -qq install \
	  --no-build-isolation --no-deps --editable .
	@touch $@

.PHONY: test-lowest
test-lowest: $(LOWEST) setup ## Test host and server on the lowest versions of every dependency.
	@MAKEFLAGS= .cache/lowest/bin/python -m pytest -q -n $(WORKERS) $(ARGS) tests/host tests/server

.PHONY: packages
packages:
	@scripts/apt-install.sh chromium=chromium chromedriver=chromium-driver npm=npm \
	  /usr/sbin/mosquitto=mosquitto '/usr/lib/postgresql/*/bin/postgres=postgresql' \
	  /usr/sbin/nginx=nginx-light systemd-analyze=systemd

.PHONY: lint
lint: $(READY) $(STUB_OTA) ## Check style, types and what a chip lacks.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright
	@$(BIN)/basedpyright -p pyright-strict.json
	@for chip in $(CHIPS); do $(BIN)/basedpyright -p pyright-$$chip.json; done
	@$(BIN)/python -m mipy_ota.tools.app.lint_device

.PHONY: format
format: $(READY) ## Sort imports and format the sources.
	@$(BIN)/ruff check --select I --fix .
	@$(BIN)/ruff format .

.PHONY: sweep
sweep: setup ## Cut the power at every flash operation (takes long).
	@$(BIN)/python -m tests.support.powercut $(ARGS)

.PHONY: damage
damage: setup ## Damage the flash of boards that execute in place, 3,000 times (takes long).
	@DAMAGES=3000 $(BIN)/python -m pytest -q -s --timeout 36000 tests/board/boot/test_in_place.py -k damaged_board $(ARGS)

.PHONY: sweep-adopt
sweep-adopt: setup ## The same while a board is adopted and given back.
	@MIPY_CUT_EVERY=1 $(BIN)/python -m pytest -q -s tests/board/remote/test_adopt.py -k power_cut $(ARGS)

.PHONY: fuzz
fuzz: setup ## Hosts against chip: 200,000 mutated manifests and trust files (10 minutes).
	@$(BIN)/python -m tests.support.fuzz $(ARGS)

.PHONY: soak
soak: setup ## MQTT for long, with a broker that fails in every way (12 minutes).
	@$(BIN)/python -m tests.support.soak $(ARGS)

.PHONY: rollouts
rollouts: setup ## Rollouts on both databases: 10,000 steps of boards, people, time and SIGKILL on each (a quarter of an hour).
	@$(BIN)/python -m tests.support.rollout_machine $(ARGS)

.PHONY: pictures
pictures: setup ## Take the pictures of the server's pages in docs/images anew.
	@$(BIN)/python -m tests.support.pictures

.PHONY: bench
bench: setup ## Measure: polls a second, rollouts, pages, push, first flash, then every budget (bytes, heap, flash operations).
	@scripts/apt-install.sh /usr/sbin/nginx=nginx-light
	@$(BIN)/python -m tests.bench.server
	@$(BIN)/python -m tests.bench.rollouts
	@$(BIN)/python -m tests.bench.whole_rollout
	@$(BIN)/python -m tests.bench.pages
	@$(BIN)/python -m tests.bench.push
	@$(BIN)/python -m tests.bench.flash
	@$(BIN)/python -m pytest -q -s tests/board/boot/test_budgets.py $(ARGS)

# --- the mipy command -----------------------------------------------------------------------------

.PHONY: demo
demo: setup ## Show the whole road on a virtual board, in half a minute.
	@$(BIN)/python -m mipy_ota.tools.sim.demo $(ARGS)

.PHONY: build
build: $(READY) ## Compile app_slots/ into a release in build/.
	@$(MIPY) build $(ARGS)

.PHONY: sign
sign: $(READY) ## Sign the newest release in build/.
	@$(MIPY) sign $(ARGS)

.PHONY: release
release: $(READY) ## Build, sign and publish.
	@$(MIPY) release $(ARGS)

.PHONY: serve
serve: $(READY) ## Run the OTA server.
	@$(MIPY) serve $(ARGS)

.PHONY: sim
sim: setup ## Run a virtual board with its console.
	@$(MIPY) sim $(ARGS)

# `make flash PORT=/dev/ttyUSB0`; the port is found when there is one board
.PHONY: flash
flash: $(READY) ## Flash a board over USB.
	@$(MIPY) flash $(PORT) $(ARGS)

.PHONY: clean
clean: ## Remove build/. Keys and fleets live elsewhere and stay.
	@rm -rf build

# --- installing -----------------------------------------------------------------------------------

# Versions are those of the lock; pipx takes constraints only without their hashes.
.PHONY: install
install: $(STATIC) ## Put mipy on the PATH (pipx, or ~/.local/bin).
	@if command -v pipx >/dev/null; then \
	  mkdir -p build; sed -n 's/^\([a-z0-9-]*==[^ ]*\).*/\1/p' requirements.lock > build/constraints.txt; \
	  pipx install --force --pip-args="--constraint=$(CURDIR)/build/constraints.txt" .; \
	else \
	  $(PYTHON) -m venv --clear $(PREFIX)/share/mipy; \
	  $(PREFIX)/share/mipy/bin/pip --disable-pip-version-check -qq install --require-hashes -r requirements.lock; \
	  $(PREFIX)/share/mipy/bin/pip --disable-pip-version-check -qq install --no-deps .; \
	  mkdir -p $(PREFIX)/bin; \
	  ln -sfn $(PREFIX)/share/mipy/bin/mipy $(PREFIX)/bin/mipy; \
	  echo "installed $(PREFIX)/bin/mipy"; \
	  case ":$$PATH:" in *":$(PREFIX)/bin:"*) ;; \
	    *) echo "what to do: put $(PREFIX)/bin on your PATH";; esac; \
	fi

.PHONY: offline
offline: setup ## Collect all that set-up, flashing and building need: make offline DIR=...
	@$(BIN)/python -m mipy_ota.tools.offline "$(DIR)"

.PHONY: uninstall
uninstall: ## Remove what `make install` made. Keys and fleets stay.
	@if command -v pipx >/dev/null && pipx list --short | grep -q '^mipy-ota '; then \
	  pipx uninstall mipy-ota; \
	else \
	  rm -rf $(PREFIX)/share/mipy; rm -f $(PREFIX)/bin/mipy; \
	fi
