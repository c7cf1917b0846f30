# `make help` lists the targets. Python (3.11, 3.12 or 3.13) and make are all that must be at hand.
PYTHON ?= python3.11
VENV ?= .venv
# torch comes by pip, as its build for CPUs, from TORCH_INDEX or wherever else pip is set up to look. Elsewhere than on
# Linux every build is one for CPUs. TORCH=torch==VERSION TORCH_INDEX=https://pypi.org/simple takes CUDA's, of 3 GB.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH ?= $(shell sed -n 's/^  "\(torch==[^"]*\)".*/\1/p' pyproject.toml)$(if $(filter Linux,$(shell uname -s)),+cpu)
HOME_DIR ?= $(CURDIR)/.crossfade
SOURCE ?= simulator
KUAIRAND_DIR ?=
PRESET ?= demo
STUDY ?= demo
OUT ?= docs/results/$(STUDY).md
KILLS ?= 5
RELEASE_KILLS ?= 200
CHAOS_KILLS ?= 100
SEEDS ?= 20
REQUESTS ?= 10000
SWAPS ?= 200
HALF_OPEN ?= 1000
DAYS ?= 30
SERVERS ?=
EXTRAS ?=
SIZE ?=
ARGS ?=

BIN := $(VENV)/bin
UV_VERSION := 0.13.9
UV := $(or $(shell command -v uv 2>/dev/null),$(BIN)/uv)
# Folders whose tests need neither dbt nor a finished home.
FAST := tests/ml tests/deploy/serving tests/test_project.py
export CROSSFADE_HOME ?= $(HOME_DIR)
# Without bytecode every process of a run compiles all that it imports; what is written lies in the virtual environment.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install dev demo test test-fast long coverage ui study kills fuzz load attack healthy night backfills chaos apps teachers bench docs docs-build lint lock image bills digests clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(BIN)/uv: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# What uv.lock says and not torch; --inexact leaves torch, and what another target installed, in place.
SYNC = UV_PROJECT_ENVIRONMENT=$(abspath $(VENV)) $(UV) sync --locked --inexact --no-install-package torch
TORCH_INSTALL = { $(BIN)/python -m pip install --disable-pip-version-check --no-compile --retries 2 \
	--extra-index-url $(TORCH_INDEX) '$(TORCH)' || { echo "$(TORCH) is neither at $(TORCH_INDEX) nor where pip looks by \
	itself: name another place with TORCH_INDEX=, or PyPI's build with TORCH=$(TORCH:+cpu=)" >&2; exit 1; }; }

$(BIN)/.runtime: uv.lock pyproject.toml | $(BIN)/python $(UV)
	@begun=$$(date +%s) && $(SYNC) --no-dev && $(TORCH_INSTALL) && touch $@ \
	&& echo "$(VENV): $$(du -sh $(VENV) | cut -f1), $$(($$(date +%s) - begun)) s"

$(BIN)/.dev: $(BIN)/.runtime
	$(SYNC)
	touch $@

install: $(BIN)/.runtime ## Make the virtual environment (.venv); EXTRAS="ray kubernetes" adds what many machines need, "sources" databases and lakehouses
	$(if $(EXTRAS),$(SYNC) --no-dev $(addprefix --extra ,$(EXTRAS)))

dev: $(BIN)/.dev ## Add what tests, linters and the examples' teachers need

demo: $(BIN)/.runtime ## Run the main job to its end: SOURCE=simulator, or SOURCE=kuairand KUAIRAND_DIR=path/to/KuaiRand-Pure
	$(BIN)/crossfade demo --source $(SOURCE) $(if $(KUAIRAND_DIR),--kuairand-dir "$(KUAIRAND_DIR)") --preset $(PRESET)

test: $(BIN)/.dev ## Run ruff and the tests; only ARGS="-k sabotage" goes to pytest, make keeps -k and args= to itself
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: $(BIN)/.dev ## Run the tests of a minute, for while you write
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not early and not long" $(or $(ARGS),$(FAST))

long: $(BIN)/.dev ## Run the tests that the suite leaves out, since each takes minutes
	$(BIN)/python -m pytest -m long --timeout=7200 $(ARGS)

coverage: $(BIN)/.dev ## Run the tests and say which lines none of them executes: a table, and htmlcov/
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-report=html $(ARGS)

ui: $(BIN)/.runtime ## Open the Dagster UI on http://127.0.0.1:3000, with the daemon
	$(BIN)/crossfade ui

study: $(BIN)/.runtime ## Test what distillation does: STUDY=quick, headline, full, sweeps, kuairand or another of designs.yaml; OUT=docs/results/$(STUDY).md
	$(BIN)/crossfade study run $(STUDY)
	$(BIN)/crossfade study report $(STUDY) --out $(OUT)

kills: $(BIN)/.dev ## Kill a study at KILLS=5 and promotions at RELEASE_KILLS=200 random moments, while a server answers
	KILLS=$(KILLS) RELEASE_KILLS=$(RELEASE_KILLS) $(BIN)/python -m pytest -s --timeout=3600 tests/campaigns/campaign_kills.py

fuzz: $(BIN)/.dev ## Send the server REQUESTS=10000 requests that nobody would send
	REQUESTS=$(REQUESTS) $(BIN)/python -m pytest -s --timeout=7200 tests/campaigns/campaign_fuzz.py

load: $(BIN)/.dev ## Swap champions SWAPS=200 times, some of which do not load, while four clients ask
	SWAPS=$(SWAPS) $(BIN)/python -m pytest -s --timeout=7200 tests/campaigns/campaign_load.py

attack: $(BIN)/.dev ## Hold HALF_OPEN=1000 connections while 50 clients ask, champions come, and health is timed
	HALF_OPEN=$(HALF_OPEN) $(BIN)/python -m pytest -s --timeout=600 tests/campaigns/campaign_attack.py

healthy: $(BIN)/.dev ## Judge healthy candidates of SEEDS=20 other seeds: DEMO=path/to/a/finished/demo/home, or it is made first
	SEEDS=$(SEEDS) DEMO=$(DEMO) $(BIN)/python -m pytest -s --timeout=14400 tests/campaigns/campaign_healthy.py

night: $(BIN)/.dev ## Let the daemon run an app's nights: files arrive, change and come late, releases follow
	$(BIN)/python -m pytest -s --timeout=3600 tests/campaigns/campaign_night.py

backfills: $(BIN)/.dev ## Run overlapping backfills of DAYS=30 beside sensors and schedule, against a serial run; SERVERS=1: on Postgres and S3
	DAYS=$(DAYS) SERVERS=$(SERVERS) $(BIN)/python -m pytest -s --timeout=7200 tests/campaigns/campaign_backfills.py

chaos: $(BIN)/.dev ## Kill workers, daemon, webserver, Postgres and the machine at CHAOS_KILLS=100 random instants, landing to release
	CHAOS_KILLS=$(CHAOS_KILLS) $(BIN)/python -m pytest -s --timeout=21600 tests/campaigns/campaign_chaos.py

apps: $(BIN)/.dev ## Tune three scaffolded apps as a new user would, the gain beside the best that is known: SIZE=3k, 30k or 300k for one
	@$(BIN)/python -m benchmarks.apps $(if $(SIZE),--size $(SIZE)) $(ARGS)

teachers: $(BIN)/.dev ## Show what is advised, chosen and gained with teachers of users, items, pairs and nothing
	@$(BIN)/python -m benchmarks.apps --teachers

bench: $(BIN)/.dev ## Run the benchmarks beside their references, and write docs/results/benchmarks.md: ARGS="--quick", or "--home a/demo/home"
	$(BIN)/python -m benchmarks all $(ARGS)
	$(BIN)/python -m benchmarks page

docs: $(BIN)/.dev ## Serve the site of docs/ on http://127.0.0.1:8000; a saved page is shown at once
	$(BIN)/python -m zensical serve

docs-build: $(BIN)/.dev ## Build the site of docs/ into .site, and refuse a link that leads nowhere
	$(BIN)/python -m zensical build --clean --strict

lint: $(BIN)/.dev ## Check format, types, SQL, imports and spelling: ruff, pyright, sqlfluff, import-linter, codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/sqlfluff lint dbt_project
	$(BIN)/sqlfluff lint --config dbt_project/.sqlfluff examples
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell

lock: | $(BIN)/python $(UV) ## Rewrite uv.lock from pyproject.toml; ARGS="--upgrade" takes newer versions
	$(UV) lock --python $(BIN)/python $(ARGS)

image: ## Build both images with docker: the version is their tag, the commit a label; bills of materials lie in .bills
	./deploy/images.sh build

bills: | $(BIN)/.runtime ## Write the images' bills of materials to .bills, with or without docker
	PYTHON=$(BIN)/python ./deploy/images.sh bills

digests: ## Look up the digests of the images' bases with docker, and write deploy/images.env
	./deploy/images.sh digests

clean: ## Remove the virtual environment, the site, and this checkout's .crossfade
	rm -rf $(VENV) .crossfade .site .cache
