# `make help` lists the targets. Python 3.11 and make are all that must be at hand.
PYTHON ?= python3.11
VENV ?= .venv
HOME_DIR ?= $(CURDIR)/.crossfade
SOURCE ?= simulator
KUAIRAND_DIR ?=
PRESET ?= demo
STUDY ?= demo
OUT ?= docs/results.md
KILLS ?= 5
RELEASE_KILLS ?= 200
CHAOS_KILLS ?= 100
SEEDS ?= 20
REQUESTS ?= 10000
SWAPS ?= 200
DAYS ?= 30
SERVERS ?=
ARGS ?=

BIN := $(VENV)/bin
export CROSSFADE_HOME ?= $(HOME_DIR)
# Quiet third parties: nothing is reported to anybody.
export DAGSTER_TELEMETRY_ENABLED ?= false
export DO_NOT_TRACK ?= 1
export GX_ANALYTICS_ENABLED ?= false
export RAY_USAGE_STATS_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help install demo test ui study kills fuzz load healthy night backfills chaos bench lint lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(BIN)/.runtime: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

$(BIN)/.dev: $(BIN)/.runtime requirements-dev.lock
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.lock
	touch $@

install: $(BIN)/.runtime ## Make the virtual environment (.venv)

demo: $(BIN)/.runtime ## Run the main job to its end: SOURCE=simulator, or SOURCE=kuairand KUAIRAND_DIR=path/to/KuaiRand-Pure
	$(BIN)/crossfade demo --source $(SOURCE) $(if $(KUAIRAND_DIR),--kuairand-dir "$(KUAIRAND_DIR)") --preset $(PRESET)

test: $(BIN)/.dev ## Run lint and tests; ARGS="..." goes to pytest
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

ui: $(BIN)/.runtime ## Open the Dagster UI on http://127.0.0.1:3000, with the daemon
	$(BIN)/crossfade ui

study: $(BIN)/.runtime ## Test what distillation does: STUDY=quick, demo, full, nulls, sweeps, paper or kuairand; OUT=docs/results.md
	$(BIN)/crossfade study run $(STUDY)
	$(BIN)/crossfade study report $(STUDY) --out $(OUT)

kills: $(BIN)/.dev ## Kill a study at KILLS=5 and promotions at RELEASE_KILLS=200 random moments, while a server answers
	KILLS=$(KILLS) RELEASE_KILLS=$(RELEASE_KILLS) $(BIN)/python -m pytest -s --timeout=3600 tests/campaigns/campaign_kills.py

fuzz: $(BIN)/.dev ## Send the server REQUESTS=10000 requests that nobody would send
	REQUESTS=$(REQUESTS) $(BIN)/python -m pytest -s --timeout=7200 tests/campaigns/campaign_fuzz.py

load: $(BIN)/.dev ## Swap champions SWAPS=200 times, some of which do not load, while four clients ask
	SWAPS=$(SWAPS) $(BIN)/python -m pytest -s --timeout=7200 tests/campaigns/campaign_load.py

healthy: $(BIN)/.dev ## Judge healthy candidates of SEEDS=20 other seeds: DEMO=path/to/a/finished/demo/home, or it is made first
	SEEDS=$(SEEDS) DEMO=$(DEMO) $(BIN)/python -m pytest -s --timeout=14400 tests/campaigns/campaign_healthy.py

night: $(BIN)/.dev ## Let the daemon run an app's nights: files arrive, change and come late, releases follow
	$(BIN)/python -m pytest -s --timeout=3600 tests/campaigns/campaign_night.py

backfills: $(BIN)/.dev ## Run overlapping backfills of DAYS=30 beside sensors and schedule, against a serial run; SERVERS=1: on Postgres and S3
	DAYS=$(DAYS) SERVERS=$(SERVERS) $(BIN)/python -m pytest -s --timeout=7200 tests/campaigns/campaign_backfills.py

chaos: $(BIN)/.dev ## Kill workers, daemon, webserver, Postgres and the machine at CHAOS_KILLS=100 random instants, landing to release
	CHAOS_KILLS=$(CHAOS_KILLS) $(BIN)/python -m pytest -s --timeout=21600 tests/campaigns/campaign_chaos.py

bench: $(BIN)/.dev ## Run the benchmarks beside their references, and write docs/benchmarks.md: ARGS="--quick", or "--home a/demo/home"
	$(BIN)/python -m benchmarks all $(ARGS)
	$(BIN)/python -m benchmarks page

lint: $(BIN)/.dev ## Run every linter: ruff, pyright, sqlfluff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/sqlfluff lint dbt_project

lock: ## Rewrite the lock files from pyproject.toml, in fresh environments
	./deploy/lock.sh $(PYTHON)

clean: ## Remove the virtual environment and this checkout's .crossfade
	rm -rf $(VENV) .crossfade
