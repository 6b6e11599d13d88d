#!/usr/bin/env bash
# What CI asks of the style: `ruff check` and `ruff format --check`, by the settings in pyproject.toml.
#
#   scripts/lint.sh          report findings; status 1 if there are any
#   scripts/lint.sh --fix    mend what ruff can, and format
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
ruff=.venv/bin/ruff
[ -x "$ruff" ] || {
    echo "lint.sh: no $ruff: run scripts/setup.sh --test" >&2
    exit 1
}
case ${1:-} in
    '')
        status=0
        "$ruff" check . || status=1
        "$ruff" format --check . || status=1
        exit "$status"
        ;;
    --fix)
        "$ruff" check --fix .
        "$ruff" format .
        ;;
    *)
        echo "lint.sh: $1: known: --fix" >&2
        exit 2
        ;;
esac
