#!/usr/bin/env bash
# The tests on another Python than .venv's: every Python file compiled, then the quick subset with the libraries pinned
# for that Python (for 3.8, that of NVIDIA's container, DALI 1.35 among them). Works on a copy of this folder, with a
# set-up of its own, in the cache folder. Arguments go to pytest, in place of the quick subset.
#
#   scripts/test_python.sh VERSION [PYTEST ARGUMENT...]   VERSION: 3.8 to 3.12
#   scripts/test_python.sh VERSION --ready                print "ready", "no set-up" or "no Python VERSION" and leave;
#                                                         status 0 if ready
#
# PYTHON names the interpreter; else it is found, or fetched, as by scripts/setup.sh --python VERSION. The first time it
# downloads about 600 MB and may have to build Horovod; then it takes some 2 minutes.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

die() {
    printf 'test_python: %s\n' "$*" >&2
    exit 1
}

case ${1:-} in
    -h | --help)
        sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    3.8 | 3.9 | 3.10 | 3.11 | 3.12) ;;
    *) die "${1:-no version}: needed is the version of a Python, 3.8 to 3.12, first of all" ;;
esac
version=$1
shift
copy=${XDG_CACHE_HOME:-$HOME/.cache}/ssd-benchmark/python$version/copy

is_wanted() {
    [ "$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null)" = "$version" ]
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_wanted "$PYTHON" || die "PYTHON=$PYTHON is no Python $version"
        printf '%s\n' "$PYTHON"
    else
        "$root/scripts/setup.sh" --python "$version"
    fi
}

if [ "${1:-}" = --ready ]; then
    if ! (SSD_STANDALONE_PYTHON=no find_python) >/dev/null 2>&1; then
        echo "no Python $version"
        exit 1
    elif ! grep -qsx tests "$copy/.venv/setup.stamp"; then
        echo "no set-up"
        exit 1
    fi
    echo ready
    exit 0
fi

python=$(find_python)
mkdir -p -- "$copy"
exec 9>"${copy%/*}/lock"
flock -n 9 || die "another run of it is on in $copy"

# The working tree as it is, new files too; what is no part of it, and the set-up that is there, stay away.
find "$copy" -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf -- {} +
tar -C "$root" -cf - --exclude-vcs --exclude=./.venv --exclude=./data --exclude=./runs --exclude=./shared \
    --exclude=__pycache__ --exclude=.pytest_cache --exclude=.hypothesis . | tar -C "$copy" -xf -
if [ -d "$root/../shared" ]; then ln -sfn -- "$(cd -- "$root/../shared" && pwd -P)" "$copy/../shared"; fi

cd -- "$copy"
"$python" -m compileall -q -f ssd scripts tests benchmarks setup.py prepare-json.py || die "not everything compiles"
PYTHON=$python scripts/setup.sh --test
# Not the slow ones: most of those start programs around the package, which are the same for every Python.
[ $# -gt 0 ] || set -- -n 2 --dist loadfile -m "not slow"
exec .venv/bin/python -m pytest -q -p no:cacheprovider "$@" 9>&-
