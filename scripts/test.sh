#!/usr/bin/env bash
# Sets up what the tests need and runs them.
#
#   scripts/test.sh            all tests, in three processes
#   scripts/test.sh --quick    the subset for daily work, under two minutes
#   scripts/test.sh ARGS       what is named, in one process; arguments go to pytest (`-n 3 --dist loadfile`: in three)
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
cd -- "$root"
parallel=(-n 3 --dist loadfile)
case ${1-} in
'') set -- "${parallel[@]}" ;;
--quick)
    shift
    set -- "${parallel[@]}" -m "not slow" "$@"
    ;;
esac
scripts/setup.sh --test --comparison
exec .venv/bin/python -m pytest -q "$@"
