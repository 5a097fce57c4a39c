# `make test` is what CI runs; `make demo` is what a newcomer runs. Both do all the set-up.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp-$(shell cat requirements/dev.lock pyproject.toml | cksum | cut -d' ' -f1)
CONTROL_PLANE ?= memory
# The extension of native/ that is installed; built anew when a source of it changed, or the virtual environment did.
NATIVE_SOURCES := $(shell find -L native -type f -not -path '*/target/*' | LC_ALL=C sort)
NATIVE_STAMP := $(VENV)/.native-$(shell cat $(NATIVE_SOURCES) | cksum | cut -d' ' -f1)
# One process more than cores, since half of the tests wait for real processes; four at most: each starts a kube-apiserver.
PROCESSES ?= $(shell expr $$(nproc) + 1)
# Each process compiles all tests where it may keep nothing of that (half a minute of CPU in all).
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/python -m pytest -n $(PROCESSES) --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-lora demo-variants demo-kserve demo-analysis demo-hang demo-capacity peers test test-fast test-full checks coverage lint lint-then-native native miri wheel generate docs controlplane edits bench attack release clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) $(NATIVE_STAMP) ## a virtual environment with the locked, hashed dependencies; the native data path where cargo is

$(NATIVE_STAMP): $(STAMP)
	$(BIN)/python -m tools.native build
	@rm -f $(VENV)/.native-* && if command -v cargo >/dev/null; then touch $@; fi

$(STAMP): requirements/dev.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: $(PYTHON) is not on the PATH (set PYTHON=...)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.stamp-* && touch $@

demo: $(STAMP) ## a good and a bad base-model rollout on real Envoy, two minutes and a quarter
	$(BIN)/rollouts lab demo base-model --control-plane $(CONTROL_PLANE)
	$(BIN)/rollouts lab demo base-model --bad --control-plane $(CONTROL_PLANE)

demo-lora: $(STAMP) ## a good and a bad LoRA adapter, split by the endpoint picker
	$(BIN)/rollouts lab demo lora --control-plane $(CONTROL_PLANE)
	$(BIN)/rollouts lab demo lora --bad --control-plane $(CONTROL_PLANE)

demo-variants: $(STAMP) ## a good and a bad version among the pods of one pool, split by the endpoint picker
	$(BIN)/rollouts lab demo variants --control-plane $(CONTROL_PLANE)
	$(BIN)/rollouts lab demo variants --bad --control-plane $(CONTROL_PLANE)

demo-kserve: $(STAMP) ## a good and a bad version among the members of a KServe group
	$(BIN)/rollouts lab demo kserve --control-plane $(CONTROL_PLANE)
	$(BIN)/rollouts lab demo kserve --bad --control-plane $(CONTROL_PLANE)

demo-analysis: $(STAMP) ## a good and a bad canary compared with stable, no limit set anywhere
	$(BIN)/rollouts lab demo analysis --control-plane $(CONTROL_PLANE)
	$(BIN)/rollouts lab demo analysis --bad --control-plane $(CONTROL_PLANE)

demo-hang: $(STAMP) ## a canary whose engines stop behind healthy pods; clients leave, then clients stay
	$(BIN)/rollouts lab demo analysis --hang leave --control-plane $(CONTROL_PLANE)
	$(BIN)/rollouts lab demo analysis --hang stay --control-plane $(CONTROL_PLANE)

demo-capacity: $(STAMP) ## a good and a bad canary that get the GPUs that there are, with long streams running; ten minutes
	$(BIN)/rollouts lab demo capacity --control-plane $(CONTROL_PLANE)
	$(BIN)/rollouts lab demo capacity --bad --control-plane $(CONTROL_PLANE)

controlplane: $(STAMP) ## build kube-apiserver, etcd, the controllers and the scheduler from pinned Go modules (once, minutes)
	$(BIN)/python -m rollouts.lab.controlplane build

generate: $(STAMP) ## rewrite the generated files: crds/, docs/reference.md, the state diagram
	$(BIN)/python -m tools.generate

docs: $(STAMP) ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

lint: $(STAMP) ## style, types, layers, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.generate --check
	$(BIN)/python -m tools.native lint

test-fast: $(STAMP) ## the part without slow, cluster, gateway, prometheus and browser tests, under a minute
	$(PYTEST) -m "not slow and not cluster and not gateway and not prometheus and not browser and not full"

coverage: $(STAMP) ## every branch of the engine
	$(BIN)/coverage run --branch --source=rollouts/engine -m pytest -q -m "not slow" tests/unit/engine tests/property/test_engine_property.py
	$(BIN)/coverage report --skip-covered --show-missing --fail-under=100

native: $(NATIVE_STAMP) ## the crates' own tests, where cargo is
	$(BIN)/python -m tools.native test

wheel: $(STAMP) ## the pure wheel, and that of the extra `native` where cargo is, in build/wheels (PLATFORM=manylinux2014)
	$(BIN)/python -m tools.native wheel $(PLATFORM)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir build/wheels .
	@ls build/wheels/*.whl

miri: $(STAMP) ## the core's tests in Miri, which sees undefined behaviour, where rustup's nightly has it; minutes
	$(BIN)/python -m tools.native miri

# What checks without the suite is two chains side by side: each is one process most of the time. The native tests wait
# for the lint of their crates, which holds cargo's lock.
checks: lint-then-native coverage
lint-then-native: lint
	@$(MAKE) --no-print-directory native

test: $(NATIVE_STAMP) ## everything that CI runs
	@$(MAKE) --no-print-directory --jobs 2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) checks
	$(PYTEST) -m "not full" --durations=15

test-full: $(STAMP) ## what takes too long for CI: long fuzz, soak and edit runs
	$(PYTEST) -m full

edits: $(STAMP) ## ten minutes of kills, freezes, edits and refusals against a real kube-apiserver, judged by the history
	$(BIN)/python -m benchmarks.controller.edits

bench: $(STAMP) ## aborts, scale, picker and a short study of the statistics; the better part of an hour
	$(BIN)/python -m benchmarks.controller.aborts
	$(BIN)/python -m benchmarks.controller.scale
	$(BIN)/python -m benchmarks.picker.run
	$(BIN)/python -m benchmarks.statistics

attack: $(STAMP) ## one tenant attacks, the aborts of twenty others are timed; five minutes
	$(BIN)/python -m benchmarks.controller.attack
	$(BIN)/python -m benchmarks.picker.uploads

peers: $(STAMP) ## both scenarios on a real istiod, rollouts over real vLLM on the CPU (6 GB, once), queries to a real VictoriaMetrics
	$(BIN)/python -m rollouts.lab.controlplane build
	$(BIN)/python -m benchmarks.peers.run
	$(BIN)/python -m benchmarks.peers.vllm
	$(BIN)/python -m benchmarks.peers.victoriametrics

release: $(STAMP) ## cut a release: version, changelog, wheels, SBOM, krew, commit, tag (VERSION=1.2.3)
	$(BIN)/python -m tools.release "$(VERSION)" $(if $(PURE),--pure)

clean: ## remove the virtual environment and build products
	rm -rf $(VENV) build *.egg-info
