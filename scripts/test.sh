#!/usr/bin/env bash
# Sets up what the tests need and runs them all; arguments go to pytest.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
cd -- "$root"
scripts/setup.sh --test
exec .venv/bin/python -m pytest -q "$@"
