#!/bin/sh
# Renews requirements/*.lock from pyproject.toml. Needs uv on the PATH (or: pip install uv).
set -eu
cd "$(dirname "$0")/.."
compile() {
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links "$@"
}
compile pyproject.toml -o requirements/runtime.lock
compile pyproject.toml --extra lab --group dev -c requirements/runtime.lock -o requirements/dev.lock
