# make install | train | submit | status | estimate | check | evaluate | compare | reference | test | test-long | test-gpu | lint | report | lineage | documents. Each makes the virtual environment on first use, and only then.
#   make train RECIPE=recipes/tiny/grpo/r1_zero.yaml ARGS="--seed 7"
#   make evaluate MODEL=runs/tiny/grpo/r1_zero BENCH=tiny
#   make compare A=runs/one B=runs/other        make compare RUN=runs/one REFERENCE=tiny_r1_zero
#   make train RECIPE=recipes/pipelines/r1_tiny.yaml        make lineage RUN=runs/pipelines/r1_tiny/seed=0/r1
#   make submit RECIPE=recipes/Qwen2.5-7B/grpo/r1_zero.yaml ARGS="--dry-run"        make status RUN=runs/Qwen2.5-7B/grpo/r1_zero
#   make estimate RECIPE=recipes/Qwen2.5-7B/grpo/r1_zero.yaml GPUS=8xA100
PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= dev
RECIPE ?= recipes/tiny/grpo/r1_zero.yaml
ARGS   ?=
# Each takes up to 1.5 GB; a file's tests share what they start from. Files are taken in their order: xdist would begin
# those of few tests last, and they are the long ones.
TEST_PROCESSES ?= 2
BIN    := $(VENV)/bin
# What is installed will do, unless EXTRAS asks for something, or what is to be run needs more.
READY  := $(VENV)/.ready-$(EXTRAS)
ifeq ($(origin EXTRAS),file)
READY  := $(firstword $(wildcard $(VENV)/.ready-*) $(READY))
endif
DEV    := $(VENV)/.ready-dev

.PHONY: install train submit status estimate check evaluate compare reference test test-long test-gpu lint format report lineage documents clean

install: $(READY)

# Made again when setup.py changes, so that a new pin reaches an old environment.
$(VENV)/.ready-%: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@

train: $(READY)
	@$(BIN)/open-r1 train $(RECIPE) $(ARGS)

submit: $(READY)
	@$(BIN)/open-r1 submit $(RECIPE) $(ARGS)

status: $(READY)
	@$(BIN)/open-r1 status $(RUN)

test: $(DEV)
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m "not long and not gpu" $(ARGS)

test-long: $(DEV)
	$(BIN)/python -m pytest -m long $(ARGS)

test-gpu: $(DEV)
	$(BIN)/python -m pytest -m gpu tests/gpu $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@if command -v shellcheck >/dev/null; then shellcheck slurm/*.sh slurm/*.slurm .ci/run; else echo "shellcheck is not installed: slurm/ is not checked"; fi

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

evaluate: $(READY)
	@$(BIN)/open-r1 evaluate $(MODEL) $(BENCH) $(ARGS)

compare: $(READY)
	@$(BIN)/open-r1 compare $(A) $(B) $(RUNS) $(RUN) $(if $(REFERENCE),--reference $(REFERENCE)) $(ARGS)

reference: $(READY)
	@$(BIN)/open-r1 reference $(RUNS) --output $(OUTPUT)

check: $(READY)
	@$(BIN)/open-r1 check $(RECIPE) $(ARGS)

estimate: $(READY)
	@$(BIN)/open-r1 estimate $(RECIPE) $(if $(GPUS),--gpus $(GPUS)) $(ARGS)

lineage: $(READY)
	@$(BIN)/open-r1 lineage $(RUN)

report: $(READY)
	@$(BIN)/open-r1 report $(RUN)

# Figures in the documents, from benchmarks/results.
documents: $(READY)
	@$(BIN)/python benchmarks/documents.py $(ARGS)

clean:
	rm -rf $(VENV)
