#!/usr/bin/env bash
# Makes a stand-in for NVIDIA's MXNet image that runs on CPUs, for the tests of the launch scripts.
#
#   tests/launch/base_image.sh --rootfs      print the path of a root file system with the whole CPU stack: Debian 12,
#                                            Python 3.11, MXNet, DALI, Horovod with MPI and Gloo, Open MPI, numactl, and
#                                            what the Dockerfile adds; /workspace/ssd is empty. Read-only by agreement:
#                                            bind-mount it or put an overlay on it.
#   tests/launch/base_image.sh --docker TAG  import an image TAG without what the Dockerfile is to install (the wheels
#                                            for that are in its /opt/wheelhouse, so that a build needs no network)
#
# Needs root, debootstrap, a .venv of Python 3.11 on Debian 12, and Horovod's MPI wheel (scripts/setup.sh builds that
# where libopenmpi-dev is installed). Kept in ~/.cache/ssd-benchmark/images under a hash of what goes in; what was not
# asked for during four hours is removed when a new one is made. Exit status 3 with one line: this machine cannot make it.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
python=$root/.venv/bin/python
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ssd-benchmark
images=$cache/images
packages=python3,python3-pip,openmpi-bin,numactl,ca-certificates,libgomp1,libquadmath0
making=

cannot() {
    printf 'base_image.sh: %s\n' "$*" >&2
    exit 3
}
cleanup() { if [ -n "$making" ]; then rm -rf --one-file-system -- "$making"; fi; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs a command with its chatter in the log; its last lines are shown if it fails.
quietly() {
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        tail -n 15 -- "$log" >&2
        printf 'base_image.sh: failed: %s\n' "$*" >&2
        exit 1
    fi
}

check_machine() {
    local tool
    [ "$(id -u)" = 0 ] || cannot "not root, debootstrap needs it"
    for tool in debootstrap chroot tar flock apt-get; do
        command -v "$tool" >/dev/null 2>&1 || cannot "$tool is not installed"
    done
    # Its packages and Horovod's wheel go into the image as they are: they must fit its Python and C library.
    grep -q '^VERSION_CODENAME=bookworm' /etc/os-release || cannot "this machine does not run Debian 12 (bookworm)"
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null ||
        cannot "$root/.venv is no Python 3.11"
    wheel=$(find "$cache/wheels" -path '*_cp311-x86_64_mpi/horovod-*.whl' -name \
        "horovod-$(sed -n 's/^horovod==//p' "$root/scripts/constraints.txt")-*" -print -quit 2>/dev/null) || wheel=
    [ -n "$wheel" ] || cannot "no Horovod wheel with MPI in $cache/wheels: install libopenmpi-dev, run scripts/setup.sh"
}

# shellcheck disable=SC2016 # the format is apt's
mirror() { # the machine's own source of Debian 12
    apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Identifier: Packages' |
        sed -n 's/^bookworm main //p' | head -n 1
}

make_base() { # make_base ROOT: what NVIDIA's image has
    local site=$1/usr/local/lib/python3.11/dist-packages
    quietly debootstrap --variant=minbase --include="$packages" bookworm "$1" "$(mirror)"
    rm -rf -- "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/* "$1"/usr/share/{doc,man,locale}
    rm -f -- "$1"/usr/lib/python3.11/EXTERNALLY-MANAGED
    mkdir -p -- "$1/opt/wheelhouse" "$1/workspace/ssd" "$site"
    quietly "$python" "$root/tests/launch/copy_packages.py" "$site" \
        mxnet nvidia-dali-cuda120 cloudpickle psutil pyyaml packaging cffi
    cp -- "$wheel" "$1/opt/"
    in_root "$1" python3 -m pip install --no-index --no-deps "/opt/${wheel##*/}"
    rm -f -- "$1/opt/${wheel##*/}"
    printf '[global]\nno-index = true\nfind-links = /opt/wheelhouse\n' >"$1/etc/pip.conf"
    lacking "$1"
    quietly "$python" -m pip download --only-binary=:all: -d "$1/opt/wheelhouse" \
        -r "$1/opt/requirements.txt" -c "$1/opt/base.txt"
    rm -f -- "$1"/opt/*.txt "$1"/opt/*.py "$1"/opt/*.toml
}

in_root() { # in_root ROOT COMMAND...: nothing of this machine's settings goes in
    local where=$1
    shift
    quietly env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
        PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore chroot "$where" "$@"
}

lacking() { # lacking ROOT: the Dockerfile's question, answered in ROOT's /opt
    cp -- "$root/pyproject.toml" "$root/scripts/constraints.txt" "$root/scripts/container_packages.py" "$1/opt/"
    in_root "$1" python3 /opt/container_packages.py /opt/pyproject.toml /opt/constraints.txt /opt/requirements.txt \
        /opt/base.txt
}

make_full() { # make_full BASE ROOT: and what the Dockerfile adds
    cp -al -- "$1" "$2" # hard links: pip replaces files, it does not write into them
    lacking "$2"
    in_root "$2" python3 -m pip install -r /opt/requirements.txt -c /opt/base.txt
    rm -f -- "$2"/opt/*.txt "$2"/opt/*.py "$2"/opt/*.toml
}

main() {
    local want=${1:-} tag=${2:-} key folder
    case $want:$# in
        --rootfs:1 | --docker:2) ;;
        *) cannot "usage: base_image.sh --rootfs | --docker TAG" ;;
    esac
    check_machine
    key=$(cat -- "${BASH_SOURCE[0]}" "$root/tests/launch/copy_packages.py" "$root/scripts/container_packages.py" \
        "$root/pyproject.toml" "$root/scripts/constraints.txt" "$wheel" | sha256sum)
    folder=$images/${key:0:16}
    mkdir -p -- "$images"
    exec 9>>"$images/.lock"
    flock 9
    if [ ! -d "$folder" ]; then
        find "$images" -mindepth 1 -maxdepth 1 -type d -mmin +240 -exec rm -rf --one-file-system -- {} +
        making=$folder.making
        mkdir -p -- "$making"
        log=$making/log
        make_base "$making/base"
        make_full "$making/base" "$making/full"
        mv -- "$making" "$folder"
        making=
    fi
    touch -- "$folder"
    if [ "$want" = --rootfs ]; then
        printf '%s\n' "$folder/full"
    else
        tar -C "$folder/base" -c . | docker import -c 'CMD ["/bin/bash"]' - "$tag"
    fi
}

main "$@"
