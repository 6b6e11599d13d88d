#!/usr/bin/env bash
# Gets ImageNet weights of torchvision's and makes a detector's backbone of them, as ONNX for --pretrained-backbone.
#
#   scripts/get_backbone.sh NAME [--url URL | --file FILE] [--sha256-prefix HEX] [OUTPUT_DIR]
#
#   NAME                  resnet34, resnet50 or resnext50_32x4d
#   --url URL             a mirror (default: torchvision's own address); an interrupted download is resumed
#   --file FILE           a copy that is here already; it is left as it is
#   --sha256-prefix HEX   what the file's SHA-256 begins with (default: the 8 digits in the file's name)
#   OUTPUT_DIR            default: data/pretrained; the result is OUTPUT_DIR/NAME-<8 digits>.onnx
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
name_of_program=${PROGRAM:-get_backbone}
url='' file='' prefix='' output=''

die() {
    printf '%s: %s\n' "$name_of_program" "$*" >&2
    exit 1
}
say() { printf '%s: %s\n' "$name_of_program" "$*"; }

case ${1:-} in
    resnet34) file_name=resnet34-333f7ec4.pth ;;
    resnet50) file_name=resnet50-0676ba61.pth ;; # V1, 76.13 top-1, what the published detectors began with
    resnext50_32x4d) file_name=resnext50_32x4d-7cdf4587.pth ;;
    -h | --help) file_name='' ;;
    *) die "NAME ${1:-is missing}: needed is resnet34, resnet50 or resnext50_32x4d" ;;
esac
name=$1
[ -z "$file_name" ] || shift
torchvision=https://download.pytorch.org/models/$file_name

value_of() { # option, number of arguments left
    [ "$2" -ge 2 ] || die "$1 needs a value"
}
while [ $# -gt 0 ]; do
    case $1 in
        --url) value_of "$1" $# && url=$2 && shift 2 ;;
        --file) value_of "$1" $# && file=$2 && shift 2 ;;
        --sha256-prefix) value_of "$1" $# && prefix=$2 && shift 2 ;;
        -h | --help)
            sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        -*) die "unknown option $1; known: --url, --file, --sha256-prefix, --help" ;;
        *)
            [ -z "$output" ] || die "two output folders: $output and $1"
            output=$1 && shift
            ;;
    esac
done
[ -z "$url" ] || [ -z "$file" ] || die "--url and --file exclude each other"
output=${output:-$root/data/pretrained}
source=${file:-${url:-$torchvision}}
base=${source%%[?#]*}
[ -z "$file" ] || base=$file
base=${base##*/}
if [ -z "$prefix" ]; then
    [[ $base =~ -([0-9a-f]{8,64})\.pth$ ]] ||
        die "$base has no 8 digits of its SHA-256 in its name; give them with --sha256-prefix"
    prefix=${BASH_REMATCH[1]}
fi
prefix=${prefix,,}
[[ $prefix =~ ^[0-9a-f]{8,64}$ ]] || die "--sha256-prefix $prefix: 8 to 64 hexadecimal digits are needed"
[ -z "$file" ] || [ -f "$file" ] || die "--file $file: no such file"
onnx=$output/$name-${prefix:0:8}.onnx
if [ -e "$onnx" ]; then
    say "$onnx is there already"
    exit 0
fi
mkdir -p -- "$output" || die "$output: cannot be made"

# The set-up's Python, else one that has what the conversion imports (as in a container), else the set-up.
python=$root/.venv/bin/python
if [ ! -x "$python" ]; then
    python=$(command -v python3 || true)
    if [ -z "$python" ] || ! "$python" -c 'import numpy, onnx' >/dev/null 2>&1; then
        "$root/scripts/setup.sh"
        python=$root/.venv/bin/python
    fi
fi

hash_is_right() {
    local sum
    sum=$(sha256sum <"$1") && sum=${sum%% *}
    [ "${sum:0:${#prefix}}" = "$prefix" ]
}

pth=$file
if [ -z "$file" ]; then
    pth=$output/$base
    part=$pth.part
    if [ ! -f "$pth" ]; then
        command -v curl >/dev/null 2>&1 || die "a download needs curl (Debian package curl)"
        # A part that is whole already cannot be resumed: the server would answer with an error.
        if [ ! -s "$part" ] || ! hash_is_right "$part"; then
            say "downloading $source"
            curl --fail --location --silent --show-error --retry 3 --continue-at - --output "$part" \
                -- "$source" ||
                die "download of $source failed; run again to resume it"
        fi
        if ! hash_is_right "$part"; then
            rm -f -- "$part"
            die "$source: its SHA-256 does not begin with $prefix; removed"
        fi
        mv -- "$part" "$pth"
    fi
fi
hash_is_right "$pth" || die "$pth: its SHA-256 does not begin with $prefix"
"$python" "$root/scripts/pth_to_onnx.py" --backbone "$name" "$pth" "$onnx" || die "$pth was not converted"
say "$onnx"
