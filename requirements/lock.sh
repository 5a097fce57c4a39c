#!/bin/sh
# Renews requirements/*.lock from pyproject.toml. Needs uv on the PATH (or: pip install uv).
set -eu
cd "$(dirname "$0")/.."
compile() {
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links "$@"
}
compile pyproject.toml -o requirements/runtime.lock
compile pyproject.toml --extra lab --group dev -c requirements/runtime.lock -o requirements/dev.lock
# Of `make peers` only, for Linux on x86-64.
uv pip compile --quiet --python-version 3.11 --python-platform x86_64-unknown-linux-gnu --generate-hashes --no-header \
  --no-annotate --no-emit-index-url --no-emit-find-links --override benchmarks/peers/vllm_cpu/overrides.txt \
  benchmarks/peers/vllm_cpu/requirements.in -o benchmarks/peers/vllm_cpu/requirements.lock
