#!/usr/bin/env bash
# The tests on Python 3.8, the Python of NVIDIA's container: every Python file compiled, then the tests of the
# package with the newest libraries that 3.8 has (DALI 1.35 among them). Works on a copy of this folder, with a
# set-up of its own, in the cache folder. Arguments go to pytest; files among them replace the usual folders.
#
#   scripts/test_python38.sh [PYTEST ARGUMENT...]
#   scripts/test_python38.sh --ready    print "ready", "no set-up" or "no Python 3.8" and leave; status 0 if ready
#
# PYTHON38 names the interpreter; else pyenv's and PATH's python3.8 are tried.
# The first time it downloads about 600 MB and may have to build Horovod; then it takes some 5 minutes.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
copy=${XDG_CACHE_HOME:-$HOME/.cache}/ssd-benchmark/python3.8/copy

die() {
    printf 'test_python38: %s\n' "$*" >&2
    exit 1
}

is_python38() { [ "$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null)" = 3.8 ]; }

find_python38() {
    local candidate
    if [ -n "${PYTHON38:-}" ]; then
        is_python38 "$PYTHON38" || die "PYTHON38=$PYTHON38 is no Python 3.8"
        printf '%s\n' "$PYTHON38"
        return
    fi
    for candidate in "${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}"/versions/3.8.*/bin/python python3.8; do
        if is_python38 "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "no Python 3.8 here; PYTHON38 can name one"
}

case ${1:-} in
    -h | --help)
        sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    --ready)
        if ! (find_python38) >/dev/null 2>&1; then
            echo "no Python 3.8"
            exit 1
        elif ! grep -qsx tests "$copy/.venv/setup.stamp"; then
            echo "no set-up"
            exit 1
        fi
        echo ready
        exit 0
        ;;
esac

python=$(find_python38)
mkdir -p -- "$copy"
exec 9>"${copy%/*}/lock"
flock -n 9 || die "another run of it is on in $copy"

# The working tree as it is, new files too; what is no part of it, and the set-up that is there, stay away.
find "$copy" -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf -- {} +
tar -C "$root" -cf - --exclude-vcs --exclude=./.venv --exclude=./data --exclude=./runs --exclude=./shared \
    --exclude=__pycache__ --exclude=.pytest_cache --exclude=.hypothesis . | tar -C "$copy" -xf -
if [ -d "$root/../shared" ]; then ln -sfn -- "$(cd -- "$root/../shared" && pwd -P)" "$copy/../shared"; fi

cd -- "$copy"
"$python" -m compileall -q -f ssd scripts tests benchmarks prepare-json.py || die "not everything compiles"
PYTHON=$python scripts/setup.sh --test
# Not launch, scripts and faults: those start programs around the package, which are the same for every Python.
tests=(tests/test_*.py tests/model tests/datasets tests/data tests/evaluation tests/training
    tests/commands/test_{check_data,evaluate,score}.py)
for argument in "$@"; do
    [[ $argument == -* ]] || tests=()
done
exec .venv/bin/python -m pytest -q -p no:cacheprovider "$@" ${tests[@]+"${tests[@]}"} 9>&-
