#!/usr/bin/env bash
# Prints the path of a standalone CPython in the user's cache folder, and fetches it with uv the first time.
#
#   scripts/standalone_python.sh [VERSION [WANTED]]
#
# VERSION: 3.11 by default, on which the whole test suite runs; WANTED: what the messages call that was not found
#
# SSD_STANDALONE_PYTHON=no            download nothing, and fail where none is in the cache folder
# SSD_STANDALONE_PYTHON=FILE.tar.gz   unpack this archive (an install_only of python-build-standalone) instead
# UV_PYTHON_INSTALL_MIRROR=URL        a mirror of python-build-standalone's releases, a variable of uv's
# PIP_INDEX_URL=URL                   a simple index of packages, for uv itself; where there is no Python at all, it is
#                                     needed, with curl and cmake
set -euo pipefail

# The wheels of this version were compared with these sums. Newer versions know newer patch releases of Python.
uv_version=0.9.11
uv_sums=(
    e97906ca1b90dac91c23af20e282e2e37c8eb80c3721898733928a295f2defda # x86_64
    d901269e1db72abc974ba61d37be6e56532e104922329e0b553d9df07ba224be # aarch64
)
version=${1:-3.11}
why="no Python ${2:-$version here}"
cache=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/ssd-benchmark
store=$cache/python
own_uv=$cache/uv-$uv_version/uv
scratch=

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}
cleanup() { if [ -n "$scratch" ]; then rm -rf -- "$scratch"; fi; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs a command; if it fails, its last line ends the one line that says so.
attempt() {
    local what=$1 output
    shift
    output=$("$@" 2>&1 </dev/null) && return
    output=$(sed -n 's/^ *\([^ ]\)/\1/p' <<<"$output" | tail -n 1)
    die "$what failed: ${output:-no reason given}; see --help of scripts/standalone_python.sh, or name a Python 3.8" \
        "to 3.12 in PYTHON"
}

is_python() { # is_python PATH: whether it runs, has this version and can make virtual environments
    [ -x "$1" ] && [ "$("$1" -c 'import ensurepip, sys, venv; print("%d.%d" % sys.version_info[:2])' \
        2>/dev/null </dev/null)" = "$version" ]
}

in_store() { # prints the one that uv has put into the cache folder
    local path
    for path in "$store/cpython-$version".*/bin/"python$version"; do
        if is_python "$path"; then
            printf '%s\n' "$path"
            return
        fi
    done
    return 1
}

from_archive() {
    local archive=$1 sum folder
    [ -f "$archive" ] || die "SSD_STANDALONE_PYTHON=$archive is no file; it must be no or a .tar.gz"
    sum=$(sha256sum <"$archive")
    folder=$store/archive-${sum:0:16}
    if ! is_python "$folder/python/bin/python3"; then
        say "unpacking a standalone Python from $archive into $store"
        scratch=$(mktemp -d -- "$store/.unpacking.XXXXXX")
        attempt "unpacking $archive" tar -xzf "$archive" -C "$scratch"
        [ -e "$scratch/python/bin/python3" ] || die "$archive has no python/bin/python3: it is no install_only archive"
        is_python "$scratch/python/bin/python3" ||
            die "$archive holds no Python $version with venv that runs on this machine"
        rm -rf -- "$folder"
        mv -- "$scratch" "$folder"
        scratch=
    fi
    printf '%s\n' "$folder/python/bin/python3"
}

# What uv can be had with, in the order of preference: its path, the path of a Python, or "curl".
source_of_uv() {
    local python
    command -v uv && return
    if "$own_uv" --version >/dev/null 2>&1; then
        printf '%s\n' "$own_uv"
        return
    fi
    # Any with pip or venv: the newest have it where 3.8 to 3.12 are not there.
    for python in python3 python python3.14 python3.13 "${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}"/versions/3.*/bin/python; do
        if "$python" -c 'import importlib.util as u, sys
sys.exit(sys.version_info < (3, 8) or not (u.find_spec("pip") or u.find_spec("ensurepip") and u.find_spec("venv")))' \
            >/dev/null 2>&1 </dev/null; then
            command -v -- "$python"
            return
        fi
    done
    [ -n "${PIP_INDEX_URL:-}" ] && command -v curl >/dev/null 2>&1 && command -v cmake >/dev/null 2>&1 && echo curl
}

uv_by_pip() { # uv_by_pip PYTHON; pip compares the sums
    local python=$1 sum
    printf 'uv==%s' "$uv_version" >"$scratch/uv.txt"
    for sum in "${uv_sums[@]}"; do printf ' --hash=sha256:%s' "$sum"; done >>"$scratch/uv.txt"
    if ! "$python" -m pip --version >/dev/null 2>&1 </dev/null; then
        attempt "making a virtual environment with $python" "$python" -m venv "$scratch/venv"
        python=$scratch/venv/bin/python
    fi
    attempt "downloading uv with $python" "$python" -m pip download --no-deps --only-binary :all: --no-cache-dir \
        --disable-pip-version-check --require-hashes -r "$scratch/uv.txt" -d "$scratch"
    attempt "unpacking uv" "$python" -m zipfile -e "$scratch"/uv-*.whl "$scratch"
}

uv_by_curl() { # without any Python: from a simple index, checked against the sum above
    local index=$PIP_INDEX_URL sum page link
    case $(uname -m) in
        x86_64) sum=${uv_sums[0]} ;;
        aarch64) sum=${uv_sums[1]} ;;
        *) die "uv must be on PATH on a machine of type $(uname -m), to fetch a Python; or PYTHON must name one" ;;
    esac
    page=${index%/}/uv/
    attempt "reading $page" curl -fsSL --retry 3 -H 'Accept: text/html' -o "$scratch/page" "$page"
    # A page lists a file by its sum where the index follows the standard.
    link=$(sed -n 's/.*href="\([^"#]*\)#sha256='"$sum"'".*/\1/p' "$scratch/page" | sed -n 1p)
    [ -n "$link" ] || die "$page does not list uv $uv_version for $(uname -m); put uv on PATH"
    case $link in
        *://*) ;;
        /*) link=$(sed -n 's,^\([a-z]*://[^/]*\).*,\1,p' <<<"$page")$link ;;
        *) link=$page$link ;;
    esac
    attempt "downloading uv" curl -fsSL --retry 3 -o "$scratch/uv.zip" "$link"
    [ "$(sha256sum <"$scratch/uv.zip")" = "$sum  -" ] || die "$link is not the uv $uv_version that it should be"
    (cd -- "$scratch" && attempt "unpacking uv" cmake -E tar xf uv.zip) || exit 1
}

get_uv() { # get_uv SOURCE: puts it into the cache folder
    local binary
    scratch=$(mktemp -d -- "$store/.uv.XXXXXX")
    if [ "$1" = curl ]; then uv_by_curl; else uv_by_pip "$1"; fi
    for binary in "$scratch"/uv-*.data/scripts/uv; do
        mkdir -p -- "${own_uv%/*}"
        chmod +x "$binary"
        mv -- "$binary" "$own_uv"
    done
    cleanup
    scratch=
    "$own_uv" --version >/dev/null 2>&1 || die "$own_uv does not run on this machine; put uv on PATH"
}

main() {
    local uv with=''
    case $version in
        -h | --help)
            sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
            return
            ;;
        3.8 | 3.9 | 3.10 | 3.11 | 3.12) ;;
        *) die "unknown Python version $version; known: 3.8 to 3.12" ;;
    esac
    case ${SSD_STANDALONE_PYTHON:-} in
        no)
            in_store || die "$why; SSD_STANDALONE_PYTHON=no forbids to fetch one; PYTHON=/path/to/python names one"
            return
            ;;
    esac
    mkdir -p -- "$store"
    exec 8>>"$store/.setup.lock" # not .lock, which is uv's
    flock 8
    if [ -n "${SSD_STANDALONE_PYTHON:-}" ]; then
        from_archive "$SSD_STANDALONE_PYTHON"
        return
    fi
    if in_store; then return; fi
    uv=$(source_of_uv) ||
        die "$why, and nothing to fetch one with: uv, a Python 3 with pip or venv, or curl, cmake and PIP_INDEX_URL; install" \
            "python3-venv of Debian 12 or Ubuntu 24.04, or name a Python in PYTHON"
    case $uv in
        */uv) ;;
        *) with=" $uv_version from PyPI (22 MB)" ;;
    esac
    say "$why: fetching a standalone one (about 30 MB) with uv$with into $cache;" \
        "SSD_STANDALONE_PYTHON=no forbids it, PYTHON=/path/to/python avoids it"
    if [ -n "$with" ]; then
        get_uv "$uv"
        uv=$own_uv
    fi
    # Not among the user's commands, and without the user's and the folder's settings for other projects.
    attempt "uv python install $version" env UV_PYTHON_INSTALL_DIR="$store" UV_PYTHON_INSTALL_BIN=0 UV_NO_CONFIG=1 \
        UV_PYTHON_DOWNLOADS=manual UV_NO_PROGRESS=1 "$uv" python install "$version" 8>&-
    in_store || die "uv has installed no Python $version with venv in $store"
}

main
