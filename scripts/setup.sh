#!/usr/bin/env bash
# Makes .venv with the pinned stack of pyproject.toml and a Horovod built against its MXNet.
#
#   scripts/setup.sh           what training, evaluation and scoring need
#   scripts/setup.sh --test    what the tests need besides (PyTorch among it: large, so only on request)
#   scripts/setup.sh --wheel   print where the cache keeps the Horovod wheel for this clone, and leave
#
# PYTHON names the interpreter (3.8 to 3.11); else one is looked for. Silent and quick when nothing is to do.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
python=$venv/bin/python
log=$venv/setup.log
stamp=$venv/setup.stamp
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ssd-benchmark/wheels
scratch=

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}
cleanup() { if [ -n "$scratch" ]; then rm -rf -- "$scratch"; fi; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs a command with its chatter in the log; its last lines are shown if it fails.
quietly() {
    local what=$1
    shift
    printf '\n=== %s: %s\n' "$what" "$*" >>"$log"
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        tail -n 15 -- "$log" >&2
        die "$what failed; the whole log: $log"
    fi
}

# Prints "3.11.7" for a Python that will do; else prints why it will not, and fails.
python_version() {
    "$1" -c '
import sys
version = ".".join(map(str, sys.version_info[:3]))
if not (3, 8) <= sys.version_info[:2] <= (3, 11):
    sys.exit("is " + version)
try:
    import ensurepip, venv
except ImportError:
    sys.exit("is %s without venv (Debian package python%d.%d-venv)" % ((version,) + sys.version_info[:2]))
print(version)' 2>&1 </dev/null | tail -n 1
    return "${PIPESTATUS[0]}"
}

find_python() {
    local candidate path answer found=''
    if [ -n "${PYTHON:-}" ]; then
        path=$(command -v -- "$PYTHON") || die "PYTHON=$PYTHON does not exist; needed: a Python 3.8 to 3.11"
        answer=$(python_version "$path") || die "PYTHON=$PYTHON $answer; needed: a Python 3.8 to 3.11"
        printf '%s\n' "$path"
        return
    fi
    local pyenv=${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}/versions
    for candidate in python3.11 python3.10 python3.9 python3.8 python3 python \
        "$pyenv"/3.11.*/bin/python "$pyenv"/3.10.*/bin/python \
        "$pyenv"/3.9.*/bin/python "$pyenv"/3.8.*/bin/python; do
        path=$(command -v -- "$candidate") || continue
        if answer=$(python_version "$path"); then
            printf '%s\n' "$path"
            return
        fi
        found="$found${found:+, }$path $answer"
    done
    die "needed: a Python 3.8 to 3.11 with venv (Debian 12: apt-get install python3-venv)," \
        "or PYTHON=/path/to/one; found: ${found:-no Python at all}"
}

# Open MPI's headers and a compiler that finds them.
mpi_here() {
    command -v mpicxx >/dev/null 2>&1 &&
        printf '#include <mpi.h>\n' | mpicxx -fsyntax-only -x c++ - >/dev/null 2>&1
}

# What is installed is right as long as this line is the same.
fingerprint() {
    local sum
    sum=$(sha256sum <"$root/pyproject.toml")
    printf '%s python-%s %s %s\n' "${sum%% *}" "$(python_version "$python")" "$mpi" "$root"
}

wheel_folder() {
    local tag
    tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')-$(uname -m)
    printf '%s/horovod-%s_mxnet-%s_%s_%s\n' "$cache" "$("$python" "$root/scripts/pins.py" version horovod)" \
        "$("$python" "$root/scripts/pins.py" version mxnet)" "$tag" "$mpi"
}

cached_wheel() { # the wheel's path, or nothing
    local wheel
    for wheel in "$folder"/horovod-*.whl; do
        if [ -f "$wheel" ]; then printf '%s\n' "$wheel"; fi
        return 0
    done
}

make_venv() {
    local base version
    base=$(find_python)
    version=$(python_version "$base")
    say "Python $version ($base) > .venv"
    # Emptied by hand, because the lock inside must stay.
    find "$venv" -mindepth 1 -maxdepth 1 ! -name .setup.lock -exec rm -rf -- {} +
    quietly "making .venv" "$base" -m venv "$venv"
}

# A .venv is kept if it runs, was made at this place, and has the Python that PYTHON names.
venv_is_good() {
    local wanted made_at=''
    python_version "$python" >/dev/null 2>&1 || return 1
    "$python" -c 'import pip' >/dev/null 2>&1 || return 1
    if [ -f "$venv/made-at" ]; then made_at=$(<"$venv/made-at"); fi
    [ -z "$made_at" ] || [ "$made_at" = "$root" ] || return 1
    if [ -n "${PYTHON:-}" ]; then
        wanted=$(find_python)
        [ "$(python_version "$wanted")" = "$(python_version "$python")" ] || return 1
    fi
}

check_build_tools() {
    local tool missing=''
    for tool in cmake make g++; do
        command -v "$tool" >/dev/null 2>&1 || missing="$missing${missing:+ }$tool"
    done
    [ -z "$missing" ] || die "Horovod must be built, and needs what is missing here:" \
        "apt-get install $missing (Debian's packages of the same names)"
}

# With "build" or "test": that extra besides what the package itself needs.
install_requirements() {
    "$python" "$root/scripts/pins.py" requirements --extra "$1" --without horovod --without gluoncv \
        >"$venv/requirements-$1.txt"
    quietly "installing requirements" "$python" -m pip install -r "$venv/requirements-$1.txt"
}

install_packages() {
    say "pinned requirements (some minutes the first time)"
    install_requirements build
    # Without its dependencies: see pyproject.toml.
    quietly "installing GluonCV" "$python" -m pip install --no-deps \
        "gluoncv==$("$python" "$root/scripts/pins.py" version gluoncv)"
    quietly "installing this package" "$python" -m pip install --no-deps --no-build-isolation \
        --config-settings editable_mode=compat -e "$root"
}

build_horovod() {
    local with_mpi=HOROVOD_WITHOUT_MPI=1
    [ "$mpi" != mpi ] || with_mpi=HOROVOD_WITH_MPI=1
    say "building Horovod against MXNet, $mpi (3 to 8 minutes, once for all clones)"
    mkdir -p -- "$folder"
    scratch=$(mktemp -d -- "$folder/.building.XXXXXX")
    # Without MAKEFLAGS Horovod runs 8 compilers at once, whatever the cores and the memory.
    quietly "building Horovod" env MAKEFLAGS="${MAKEFLAGS:--j$(nproc)}" HOROVOD_WITH_MXNET=1 \
        HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITH_GLOO=1 "$with_mpi" \
        "$python" -m pip wheel -v --no-build-isolation --no-deps --no-cache-dir --no-binary horovod -w "$scratch" \
        "horovod==$("$python" "$root/scripts/pins.py" version horovod)"
    # A rename within one folder: a wheel under its final name is always whole.
    mv -- "$scratch"/horovod-*.whl "$folder/"
    cleanup
    scratch=
}

prove() {
    say "proving the stack"
    local what="importing the stack (Horovod's wheel: $1; remove it if it does not fit here)"
    (cd -- "$venv" && quietly "$what" "$python" -c '
import sys
sys.modules["torch"] = None  # GluonCV refuses the PyTorch of the tests, and Horovod crashes if it comes after
import mxnet, horovod.mxnet as hvd
import cv2, gluoncv, matplotlib, mlperf_logging.mllog, nvidia.dali, onnx, pycocotools.cocoeval, PIL, ssd, yaml
hvd.init()
total = hvd.allreduce(mxnet.nd.array([1.0, 2.0]), average=False, name="setup")
assert total.asnumpy().tolist() == [hvd.size(), 2.0 * hvd.size()], total
mxnet.nd.waitall()
hvd.shutdown()
print("mxnet", mxnet.__version__, "dali", nvidia.dali.__version__)
print("gloo", hvd.gloo_built(), "mpi", hvd.mpi_built())
')
}

main() {
    local want_tests='' want_wheel='' argument wheel line
    for argument in "$@"; do
        case $argument in
            --test) want_tests=yes ;;
            --wheel) want_wheel=yes ;;
            -h | --help)
                sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
                return
                ;;
            *) die "unknown argument $argument; known: --test, --wheel, --help" ;;
        esac
    done
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0
    unset PYTHONHOME PYTHONPATH

    # Found before anything is made, so that a machine without Python is left as it was.
    if [ -n "${PYTHON:-}" ] || [ ! -x "$python" ]; then find_python >/dev/null; fi
    mkdir -p -- "$venv"
    exec 9>>"$venv/.setup.lock"
    flock 9 # two set-ups of one clone take turns

    mpi=no-mpi
    if mpi_here; then mpi=mpi; fi
    if [ -z "$want_wheel" ] && [ -f "$stamp" ] && venv_is_good; then
        line=$(fingerprint)
        if grep -qxF -- "$line" "$stamp"; then
            if [ -z "$want_tests" ] || grep -qx tests "$stamp"; then return; fi
        fi
    fi

    if ! venv_is_good; then make_venv; fi
    printf '%s\n' "$root" >"$venv/made-at"
    folder=$(wheel_folder)
    wheel=$(cached_wheel)
    if [ -n "$want_wheel" ]; then
        printf '%s\n' "$folder"
        return
    fi
    if [ -z "$wheel" ]; then check_build_tools; fi
    # An upgrade keeps the tests' extra once it is there.
    if [ -f "$stamp" ] && grep -qx tests "$stamp"; then want_tests=yes; fi
    rm -f -- "$stamp"
    install_packages
    if [ -z "$wheel" ]; then
        build_horovod
        wheel=$(cached_wheel)
    fi
    quietly "installing Horovod" "$python" -m pip install --no-deps --force-reinstall "$wheel"
    if [ -n "$want_tests" ]; then
        say "what the tests need"
        install_requirements test
    fi
    prove "$wheel"
    { fingerprint && if [ -n "$want_tests" ]; then echo tests; fi; } >"$stamp.new"
    mv -- "$stamp.new" "$stamp"
    say "ready: .venv"
}

main "$@"
