#!/usr/bin/env bash
# Makes .venv with the package, the versions of constraints.txt, and a Horovod built against its MXNet.
#
#   scripts/setup.sh                   what training, evaluation and scoring need
#   scripts/setup.sh --test            what the tests need besides
#   scripts/setup.sh --comparison      PyTorch and GluonCV besides, for tests and benchmarks against them (large)
#   scripts/setup.sh --wheel           print where the cache keeps the Horovod wheel for this clone, and leave
#   scripts/setup.sh --python VERSION  print the path of a Python of this version, as it would be found, and leave
#
# PYTHON names the interpreter (3.8 to 3.12); else one is looked for on PATH and among pyenv's. Where there is none,
# scripts/standalone_python.sh fetches one into the cache folder; its --help says how to avoid that, and how to do it
# without a network. Silent and quick when nothing is to do.
set -euo pipefail

versions=(3.11 3.12 3.10 3.9 3.8) # in the order in which they are tried; the whole test suite runs on the first

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
constraints=$root/scripts/constraints.txt
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
if "%d.%d" % sys.version_info[:2] not in "'"${versions[*]}"'".split():
    sys.exit("is " + version)
try:
    import ensurepip, venv
except ImportError:
    sys.exit("is %s without venv (Debian package python%d.%d-venv)" % ((version,) + sys.version_info[:2]))
print(version)' 2>&1 </dev/null | tail -n 1
    return "${PIPESTATUS[0]}"
}

find_python() {
    local candidate path answer found='' version candidates=()
    if [ -n "${PYTHON:-}" ]; then
        path=$(command -v -- "$PYTHON") || die "PYTHON=$PYTHON does not exist; needed: a Python 3.8 to 3.12"
        answer=$(python_version "$path") || die "PYTHON=$PYTHON $answer; needed: a Python 3.8 to 3.12"
        printf '%s\n' "$path"
        return
    fi
    local pyenv=${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}/versions
    for version in "${versions[@]}"; do candidates+=("python$version"); done
    candidates+=(python3 python)
    for version in "${versions[@]}"; do candidates+=("$pyenv/$version".*/bin/python); done
    case ${SSD_STANDALONE_PYTHON:-no} in
        no) ;;
        *) candidates=() ;; # an archive that is named is meant
    esac
    for candidate in ${candidates[@]+"${candidates[@]}"}; do
        path=$(command -v -- "$candidate") || continue
        if answer=$(python_version "$path"); then
            printf '%s\n' "$path"
            return
        fi
        found="$found${found:+, }$path $answer"
    done
    local wanted="3.8 to 3.12 with venv here"
    if [ "${#versions[@]}" = 1 ]; then wanted="${versions[0]} with venv here"; fi
    "$root/scripts/standalone_python.sh" "${versions[0]}" "$wanted${found:+ (found: $found)}"
}

# Open MPI's headers and a compiler that finds them.
mpi_here() {
    command -v mpicxx >/dev/null 2>&1 &&
        printf '#include <mpi.h>\n' | mpicxx -fsyntax-only -x c++ - >/dev/null 2>&1
}

# What is installed is right as long as this line is the same.
fingerprint() {
    local sum
    sum=$(cat -- "$root/pyproject.toml" "$constraints" "$root/ssd/mxnet_import.py" | sha256sum)
    printf '%s python-%s %s %s\n' "${sum%% *}" "$(python_version "$python")" "$mpi" "$root"
}

# Of a package that has one pin for every Python.
pin() { sed -n "s/^$1==\([^ ;]*\) *\(#.*\)\?$/\1/p" "$constraints"; }

python_tag() { "$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])'; }

wheel_folder() { # wheel_folder TAG: cp311 or the like
    printf '%s/horovod-%s_mxnet-%s_%s-%s_%s\n' "$cache" "$(pin horovod)" "$(pin mxnet)" "$1" "$(uname -m)" "$mpi"
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

pip_install() {
    local what=$1
    shift
    quietly "$what" "$python" -m pip install "$@"
}

install_mxnet() { # and what Horovod's build needs besides
    say "MXNet and the tools for Horovod's build"
    pip_install "installing MXNet" -c "$constraints" numpy mxnet pyyaml packaging cloudpickle psutil \
        setuptools wheel cffi
}

# With Horovod there, pip leaves it as it is.
install_package() {
    local extras=()
    [ -z "$want_tests" ] || extras+=(test)
    [ -z "$want_comparison" ] || extras+=(comparison)
    say "this package and its requirements${extras[*]+, with ${extras[*]}} (some minutes the first time)"
    local IFS=,
    pip_install "installing requirements" --no-build-isolation --config-settings editable_mode=compat -c "$constraints" \
        -e "$root${extras[*]+[${extras[*]}]}"
    # Without its dependencies: see pyproject.toml.
    [ -z "$want_comparison" ] || pip_install "installing GluonCV" --no-deps "gluoncv==$(pin gluoncv)"
}

# Horovod's library for MXNet holds nothing of Python's, and MXNet's is the same for every Python: where the cache has
# the wheel of another version, its file and tags are renamed, which takes seconds instead of minutes.
other_wheel() { # prints the path of such a wheel, if there is one
    local version wheel
    for version in "${versions[@]}"; do
        for wheel in "$(wheel_folder "cp${version/./}")"/horovod-*.whl; do
            if [ -f "$wheel" ]; then
                printf '%s\n' "$wheel"
                return
            fi
        done
    done
    return 1
}

rename_wheel() { # rename_wheel WHEEL TAG
    local library suffix
    say "Horovod's wheel from ${1##*/} in the cache"
    mkdir -p -- "$folder"
    scratch=$(mktemp -d -- "$folder/.building.XXXXXX")
    quietly "unpacking Horovod" "$python" -m wheel unpack -d "$scratch/tree" "$1"
    suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
    for library in "$scratch"/tree/*/horovod/mxnet/mpi_lib.*.so; do
        mv -- "$library" "${library%/*}/mpi_lib$suffix"
    done
    quietly "packing Horovod" "$python" -m wheel pack -d "$scratch" "$scratch"/tree/*
    quietly "renaming Horovod" "$python" -m wheel tags --remove --python-tag "$2" --abi-tag "$2" \
        "$scratch"/horovod-*.whl
    mv -- "$scratch"/horovod-*.whl "$folder/"
    cleanup
    scratch=
}

# Horovod's build and horovodrun import MXNet in processes that do not import this package. On Python 3.12 they need
# what ssd/mxnet_import.py does: .venv's Python runs a copy of it at every start, which is quick. A copy, because
# importing the package itself would hide that of another clone that is run with this .venv.
prepare_mxnet_import() {
    local site
    site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    rm -f -- "$site"/ssd_mxnet_import.py "$site"/ssd_mxnet_import.pth
    if (cd -- "$venv" && "$python" -c 'import mxnet') >>"$log" 2>&1 </dev/null; then return; fi
    cp -- "$root/ssd/mxnet_import.py" "$site/ssd_mxnet_import.py"
    echo 'import ssd_mxnet_import; ssd_mxnet_import.install()' >"$site/ssd_mxnet_import.pth"
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
        "horovod==$(pin horovod)"
    # A rename within one folder: a wheel under its final name is always complete.
    mv -- "$scratch"/horovod-*.whl "$folder/"
    cleanup
    scratch=
}

prove() {
    say "proving the stack"
    local what="importing the stack (Horovod's wheel: $1; remove it if it does not fit here)"
    (cd -- "$venv" && quietly "$what" "$python" -c '
import mxnet, horovod.mxnet as hvd
import cv2, matplotlib, mlperf_logging.mllog, nvidia.dali, onnx, pycocotools.cocoeval, PIL, ssd, yaml
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
    local want_tests='' want_comparison='' want_wheel='' want_python='' wheel other line tag
    while [ $# -gt 0 ]; do
        case $1 in
            --test) want_tests=yes ;;
            --comparison) want_comparison=yes ;;
            --wheel) want_wheel=yes ;;
            --python)
                case " ${versions[*]} " in
                    *" ${2:-none} "*) want_python=$2 ;;
                    *) die "--python ${2:-without a version}: needed is one of 3.8 to 3.12" ;;
                esac
                shift
                ;;
            -h | --help)
                sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
                return
                ;;
            *) die "unknown argument $1; known: --test, --comparison, --wheel, --python, --help" ;;
        esac
        shift
    done
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0
    unset PYTHONHOME PYTHONPATH

    if [ -n "$want_python" ]; then
        unset PYTHON
        versions=("$want_python")
        find_python
        return
    fi
    # Found before anything is made, so that a machine without Python is left as it was.
    if [ -n "${PYTHON:-}" ] || [ ! -x "$python" ]; then find_python >/dev/null; fi
    mkdir -p -- "$venv"
    exec 9>>"$venv/.setup.lock"
    flock 9 # two set-ups of one clone run one after the other

    mpi=no-mpi
    if mpi_here; then mpi=mpi; fi
    if [ -z "$want_wheel" ] && [ -f "$stamp" ] && venv_is_good; then
        line=$(fingerprint)
        if grep -qxF -- "$line" "$stamp"; then
            if { [ -z "$want_tests" ] || grep -qx tests "$stamp"; } &&
                { [ -z "$want_comparison" ] || grep -qx comparison "$stamp"; }; then return; fi
        fi
    fi

    if ! venv_is_good; then make_venv; fi
    printf '%s\n' "$root" >"$venv/made-at"
    tag=$(python_tag)
    folder=$(wheel_folder "$tag")
    wheel=$(cached_wheel)
    if [ -n "$want_wheel" ]; then
        printf '%s\n' "$folder"
        return
    fi
    other=
    if [ -z "$wheel" ] && ! other=$(other_wheel); then check_build_tools; fi
    # An upgrade keeps the extras once they are there.
    if [ -f "$stamp" ] && grep -qx tests "$stamp"; then want_tests=yes; fi
    if [ -f "$stamp" ] && grep -qx comparison "$stamp"; then want_comparison=yes; fi
    rm -f -- "$stamp"
    install_mxnet
    prepare_mxnet_import
    if [ -z "$wheel" ]; then
        if [ -n "$other" ]; then rename_wheel "$other" "$tag"; else build_horovod; fi
        wheel=$(cached_wheel)
    fi
    pip_install "installing Horovod" --no-deps --force-reinstall "$wheel"
    install_package
    prove "$wheel"
    {
        fingerprint
        if [ -n "$want_tests" ]; then echo tests; fi
        if [ -n "$want_comparison" ]; then echo comparison; fi
    } >"$stamp.new"
    mv -- "$stamp.new" "$stamp"
    say "ready: .venv"
}

main "$@"
