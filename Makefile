# Needs make and Python 3.11 or newer; everything else is installed into .venv.
#
#   make quickstart    train and evaluate the arms on this machine    (ARGS="--arms ..." for others)
#   make test          all tests, on the releases of requirements/
#   make check         what must pass before a change: lint, types, tests
#   make wheel-check   build the wheel, install it in an environment of its own, use it
#   make test-newest   all tests on the newest releases that pyproject.toml admits
#   make test-oldest   all tests on the oldest ones
#   make test-trl      the tests of the engine TRL, in an environment of its own
#   make test-verl     the tests of the engine verl, in an environment of its own    (ARGS='-m ""': on real Ray, too)
#   make test-vllm     the tests against a real vLLM server, for CPUs, in an environment of its own
#   make check-deploy  the files for clusters, read by SkyPilot and by KubeRay's own schema
#   make lock          write requirements/ anew, changing as little as possible    (ARGS=--upgrade: the newest of all)

VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
READY := $(VENV)/.installed
CANDIDATES := python3.13 python3.12 python3.11 python3 python
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
GPU := $(shell nvidia-smi -L 2>/dev/null | head -1)
# Where the default build of torch brings CUDA along and there is no GPU: make TORCH_INDEX=<PyTorch's index of CPU wheels>
TORCH_INDEX ?=
# The releases to install. Empty: the newest of the ranges, of which TORCH may narrow one (TORCH=torch==2.13.0).
LOCK ?= requirements/$(if $(TORCH_INDEX),cpu,$(if $(GPU),cuda,cpu)).txt
TORCH ?= torch
RELEASES := $(if $(LOCK),-c $(LOCK),--upgrade --upgrade-strategy eager)
INSTALL := -m pip --disable-pip-version-check install $(RELEASES)
# Tests side by side: a file stays with one process, which keeps its fixtures. PARALLEL= runs them one after another.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
torch_for = $(if $(TORCH_INDEX),$(1)/python $(INSTALL) --no-deps --index-url $(TORCH_INDEX) $(TORCH))

.PHONY: install quickstart test test-all test-newest test-oldest install-trl test-trl install-verl test-verl install-vllm test-vllm lint types \
	check check-deploy wheel-check lock format clean

install: $(READY)

$(READY): pyproject.toml Makefile src/fission_grpo/commands/benchmarks.py $(LOCK)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it, or run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call torch_for,$(BIN))
	$(BIN)/python $(INSTALL) hatchling editables
	$(BIN)/python $(INSTALL) --no-build-isolation $(TORCH) -e ".[dev,bfcl,smollm2,tau2]"
	$(BIN)/fission install-benchmarks
	@touch $@

quickstart: install
	$(BIN)/fission quickstart $(ARGS)

test: install
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-all: install
	$(BIN)/python -m pytest $(PARALLEL) -m "" $(ARGS)

test-newest:
	rm -f .venv-newest/.installed
	$(MAKE) test VENV=.venv-newest LOCK=

test-oldest:
	$(MAKE) test VENV=.venv-oldest LOCK=requirements/oldest.txt

# An engine has an environment of its own. What it shares with the core, torch above all, is lent to it and not installed
# a second time; what it wants otherwise is installed in front of that.
TRL := .venv-trl
SITE = -c 'import site; print(site.getsitepackages()[0])'

install-trl: $(TRL)/.installed

$(TRL)/.installed: $(READY) requirements/trl.txt
	test -x $(TRL)/bin/python || $(BIN)/python -m venv $(TRL)
	echo "import site; site.addsitedir('$$($(BIN)/python $(SITE))')" >"$$($(TRL)/bin/python $(SITE))/core.pth"
	$(TRL)/bin/python -m pip --disable-pip-version-check install -c requirements/trl.txt "fission-grpo[trl,test]"
	@touch $@

test-trl: install-trl
	$(TRL)/bin/python -m pytest $(PARALLEL) tests/engines/trl $(ARGS)

VERL := .venv-verl

install-verl: $(VERL)/.installed

# Its libraries want an older transformers than the core's. What is ours is installed as it is, for its entry point.
$(VERL)/.installed: $(READY) requirements/verl.txt
	test -x $(VERL)/bin/python || $(BIN)/python -m venv $(VERL)
	echo "import site; site.addsitedir('$$($(BIN)/python $(SITE))')" >"$$($(VERL)/bin/python $(SITE))/core.pth"
	$(VERL)/bin/python -m pip --disable-pip-version-check install -c requirements/verl.txt "fission-grpo[verl,test]"
	@touch $@

# One process: each run on Ray takes both of two cores.
test-verl: install-verl
	$(VERL)/bin/python -m pytest tests/engines/verl $(ARGS)

# The server alone: what asks it, and its tests, stay in the ordinary environment and in TRL's.
NO_VLLM := vLLM is not installed, and none of its tests has run: they need a network, and wheels for this machine (as in requirements/vllm.txt)
install-vllm: $(VLLM)/.installed

$(VLLM)/.installed: requirements/vllm.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip --disable-pip-version-check install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --no-deps torch==2.13.0 \
		|| { echo "$(NO_VLLM)" >&2; exit 1; }
	$(VLLM)/bin/python -m pip --disable-pip-version-check install --no-deps -r $< || { echo "$(NO_VLLM)" >&2; exit 1; }
	@touch $@

test-vllm: install install-trl install-vllm
	FISSION_VLLM=$(VLLM)/bin/python $(BIN)/python -m pytest tests/engines/vllm $(ARGS)
	FISSION_VLLM=$(VLLM)/bin/python $(TRL)/bin/python -m pytest tests/engines/trl/test_trl_vllm.py $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: install
	$(BIN)/mypy

check: lint types test

# Neither is part of what is developed with: SkyPilot brings seventy packages, and KubeRay's schema is a file of 1.4 MB.
DEPLOY := .venv-deploy
KUBERAY := 1.6.2
RAYJOB := $(abspath $(DEPLOY))/rayjob-$(KUBERAY).yaml

check-deploy:
	test -x $(DEPLOY)/bin/python || $(PYTHON) -m venv $(DEPLOY)
	$(DEPLOY)/bin/python -m pip --disable-pip-version-check install --quiet skypilot==0.14.1 hypothesis pytest pytest-timeout
	test -s $(RAYJOB) || curl -fsSL -o $(RAYJOB) \
		https://raw.githubusercontent.com/ray-project/kuberay/v$(KUBERAY)/ray-operator/config/crd/bases/ray.io_rayjobs.yaml
	FISSION_RAYJOB_CRD=$(RAYJOB) $(DEPLOY)/bin/python -m pytest tests/deploy $(ARGS)

# As a stranger does it: a new environment, the wheel, and no folder of ours in sight.
wheel-check: install
	rm -rf dist .venv-wheel
	$(BIN)/python -m pip --disable-pip-version-check wheel --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/python -m venv .venv-wheel
	$(call torch_for,.venv-wheel/bin)
	.venv-wheel/bin/python $(INSTALL) dist/*.whl
	.venv-wheel/bin/python tests/wheel_check.py dist/*.whl

lock:
	test -x .venv-lock/bin/python || $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip --disable-pip-version-check install --quiet uv==0.13.9
	PATH=.venv-lock/bin:$$PATH sh requirements/lock.sh $(ARGS)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
