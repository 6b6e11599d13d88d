#!/usr/bin/env bash
# Gets ImageNet weights and makes a detector's backbone of them, as ONNX for --pretrained-backbone.
#
#   scripts/get_backbone.sh NAME [--mindcv] [--pyramid] [--url URL | --file FILE] [--sha256-prefix HEX] [OUTPUT_DIR]
#
#   NAME                  resnet34, resnet50, resnext50_32x4d, mobilenet_v2 or mobilenet_v3_large
#   --mindcv              MindCV's weights (.ckpt) instead of torchvision's (.pth)
#   --pyramid             of a ResNet all stages, for a feature pyramid; SSD takes such a file too
#   --url URL             a mirror (default: torchvision's own address, or MindCV's); an interrupted download is resumed
#   --file FILE           an existing copy, of either kind; it is not changed
#   --sha256-prefix HEX   what the file's SHA-256 begins with (default: the 8 digits in the name of a .pth; those of a
#                         .ckpt are of no known hash, so that only its tensors are checked)
#   OUTPUT_DIR            default: data/pretrained; the result is OUTPUT_DIR/NAME-<8 digits>.onnx, with --pyramid
#                         OUTPUT_DIR/NAME_pyramid-<8 digits>.onnx
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
name_of_program=${PROGRAM:-get_backbone}
url='' file='' prefix='' output='' mindcv='' pyramid=''

die() {
    printf '%s: %s\n' "$name_of_program" "$*" >&2
    exit 1
}
say() { printf '%s: %s\n' "$name_of_program" "$*"; }

case ${1:-} in
    resnet34) file_name=resnet34-333f7ec4.pth ckpt=resnet/resnet34-f297d27e.ckpt ;;
    resnet50) # V1, 76.13 top-1, what the published detectors began with
        file_name=resnet50-0676ba61.pth ckpt=resnet/resnet50-e0733ab8.ckpt ;;
    resnext50_32x4d) file_name=resnext50_32x4d-7cdf4587.pth ckpt=resnext/resnext50_32x4d-af8aba16.ckpt ;;
    mobilenet_v2) # V1, 71.88 top-1
        file_name=mobilenet_v2-b0353104.pth ckpt=mobilenet/mobilenetv2/mobilenet_v2_100-d5532038.ckpt ;;
    mobilenet_v3_large) # V1, 74.04 top-1
        file_name=mobilenet_v3_large-8738ca79.pth ckpt=mobilenet/mobilenetv3/mobilenet_v3_large_100-1279ad5f.ckpt ;;
    -h | --help) file_name='' ;;
    *) die "NAME ${1:-is missing}: needed is resnet34, resnet50, resnext50_32x4d, mobilenet_v2 or mobilenet_v3_large" ;;
esac
name=$1
[ -z "$file_name" ] || shift

value_of() { # option, number of arguments left
    [ "$2" -ge 2 ] || die "$1 needs a value"
}
while [ $# -gt 0 ]; do
    case $1 in
        --mindcv) mindcv=1 && shift ;;
        --pyramid) pyramid=1 && shift ;;
        --url) value_of "$1" $# && url=$2 && shift 2 ;;
        --file) value_of "$1" $# && file=$2 && shift 2 ;;
        --sha256-prefix) value_of "$1" $# && prefix=$2 && shift 2 ;;
        -h | --help)
            sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        -*) die "unknown option $1; known: --mindcv, --pyramid, --url, --file, --sha256-prefix, --help" ;;
        *)
            [ -z "$output" ] || die "two output folders: $output and $1"
            output=$1 && shift
            ;;
    esac
done
[ -z "$url" ] || [ -z "$file" ] || die "--url and --file exclude each other"
output=${output:-$root/data/pretrained}
published=https://download.pytorch.org/models/$file_name
[ -z "$mindcv" ] || published=https://download.mindspore.cn/toolkits/mindcv/$ckpt
[ -z "$pyramid" ] || [[ $name = res* ]] || die "--pyramid: no feature pyramid works on $name"
source=${file:-${url:-$published}}
base=${source%%[?#]*}
[ -z "$file" ] || base=$file
base=${base##*/}
checked=1
if [ -z "$prefix" ]; then
    [[ $base =~ -([0-9a-f]{8,64})\.(pth|ckpt)$ ]] ||
        die "$base has no 8 digits of its SHA-256 in its name; give them with --sha256-prefix"
    prefix=${BASH_REMATCH[1]}
    [ "${BASH_REMATCH[2]}" = pth ] || checked=''
fi
prefix=${prefix,,}
[[ $prefix =~ ^[0-9a-f]{8,64}$ ]] || die "--sha256-prefix $prefix: 8 to 64 hexadecimal digits are needed"
[ -z "$file" ] || [ -f "$file" ] || die "--file $file: no such file"
onnx=$output/$name${pyramid:+_pyramid}-${prefix:0:8}.onnx
if [ -e "$onnx" ]; then
    say "$onnx exists already"
    exit 0
fi
mkdir -p -- "$output" || die "$output: cannot be created"

# The set-up's Python, else one that has the modules that the conversion imports (as in a container), else run set-up.
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
    [ -n "$checked" ] || return 0
    sum=$(sha256sum <"$1") && sum=${sum%% *}
    [ "${sum:0:${#prefix}}" = "$prefix" ]
}

pth=$file
if [ -z "$file" ]; then
    pth=$output/$base
    part=$pth.part
    if [ ! -f "$pth" ]; then
        command -v curl >/dev/null 2>&1 || die "a download needs curl (Debian package curl)"
        # A complete part cannot be resumed: the server would answer with an error.
        if [ ! -s "$part" ] || [ -z "$checked" ] || ! hash_is_right "$part"; then
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
if [ -z "$checked" ]; then
    sum=$(sha256sum <"$pth")
    say "the digits in the name of $base are not checked; its SHA-256 is ${sum%% *}"
fi
"$python" "$root/scripts/pth_to_onnx.py" --backbone "$name" ${pyramid:+--pyramid} "$pth" "$onnx" ||
    die "$pth was not converted"
say "$onnx"
