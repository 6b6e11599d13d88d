#!/usr/bin/env bash
# Downloads COCO 2017 for training and evaluation: images and box annotations. Run it again to resume.
#
#   scripts/download_coco2017.sh [--delete-archives] [DIR]
#
#   DIR                 default: data/coco; afterwards it holds train2017/, val2017/ and annotations/ with
#                       instances_*.json and bbox_only_instances_*.json (made by prepare-json.py)
#   --delete-archives   each archive is deleted once it is unpacked (default: kept)
#
# Variables: COCO_URL, a mirror (http://, https:// or file://; default http://images.cocodataset.org).
# COCO_ARCHIVES, a file with other archives than COCO's: lines "PATH MD5 BYTES FILES" like those below.
# PYTHON, for prepare-json.py (default: the set-up's, else python3).
# Needs curl, unzip and about 42 GB, of which 20 GB are the archives; prints the space that it needs and has first.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
url=${COCO_URL:-http://images.cocodataset.org}
url=${url%/}
# Path below the address, MD5, bytes, number of wanted files. COCO itself publishes no checksums; these are the ones
# that PaddlePaddle's PaddleDetection checks (ppdet/utils/download.py, DATASETS), and many others use the same ones.
# The smallest archive comes first, so that mistakes show early.
archives='annotations/annotations_trainval2017.zip f4bbac642086de4f52a3fdda2de5fa2c 252907541 2
zips/val2017.zip 442b8da7639aecaf257c1dceb8ba8c80 815585330 5000
zips/train2017.zip cced6f7f71b7629ddf16f17bbcfab6b2 19336861798 118287'

die() {
    printf 'download_coco2017: %s\n' "$*" >&2
    exit 1
}
say() { printf 'download_coco2017: %s\n' "$*"; }
gigabytes() { # 1234567890 > 1.2 GB
    printf '%d.%d GB' $(($1 / 1000000000)) $(($1 / 100000000 % 10))
}

dir='' delete=''
for argument in "$@"; do
    case $argument in
        --delete-archives) delete=yes ;;
        -h | --help)
            sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        -*) die "unknown option $argument; known: --delete-archives, --help" ;;
        *)
            [ -z "$dir" ] || die "two folders: $dir and $argument"
            dir=$argument
            ;;
    esac
done
dir=${dir:-$root/data/coco}
case $url in
    http://?* | https://?* | file:///?*) ;;
    *) die "COCO_URL=$url is no http://, https:// or file:/// address" ;;
esac
if [ -n "${COCO_ARCHIVES:-}" ]; then
    archives=$(cat -- "$COCO_ARCHIVES" 2>/dev/null) || die "COCO_ARCHIVES=$COCO_ARCHIVES cannot be read"
fi
missing=''
for tool in curl unzip md5sum; do
    command -v "$tool" >/dev/null 2>&1 || missing="$missing${missing:+ }$tool"
done
[ -z "$missing" ] || die "missing here: $missing (Debian packages curl, unzip, coreutils)"
python=${PYTHON:-$root/.venv/bin/python}
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3
command -v "$python" >/dev/null 2>&1 || die "prepare-json.py needs a Python; PYTHON=$python does not exist"

if ! mkdir -p -- "$dir/annotations" 2>/dev/null || [ ! -w "$dir" ]; then die "$dir cannot be created or written"; fi
dir=$(cd -- "$dir" && pwd -P)
exec 9>"$dir/.download.lock"
flock -n 9 || die "$dir: another download into this folder is running"

bytes_of() { # 0 for a file that is not there
    if [ -e "$1" ]; then stat -c %s -- "$1"; else echo 0; fi
}
images_in() { find "$1" -maxdepth 1 -type f -name '*.jpg' | wc -l; }

# Whether an archive is done: all its images exist, or the annotations of both splits.
is_unpacked() { # name, files
    if [ "$1" = annotations_trainval2017 ]; then
        [ -f "$dir/annotations/instances_train2017.json" ] && [ -f "$dir/annotations/instances_val2017.json" ]
        return
    fi
    [ -d "$dir/$1" ] || return 1
    local images
    images=$(images_in "$dir/$1")
    [ "$images" = "$2" ] || die "$dir/$1 holds $images images, not $2; move it away and run again"
}

wanted_space() { # bytes still to be written
    local path md5 bytes files name zip have total=0
    while read -r path md5 bytes files; do
        name=${path##*/} && name=${name%.zip} && zip=$dir/$name.zip
        # status 1 means "not yet"; die inside the function exits the script
        if is_unpacked "$name" "$files"; then continue; fi
        have=$(bytes_of "$zip")
        [ "$have" != 0 ] || have=$(bytes_of "$zip.part")
        if [ "$name" = annotations_trainval2017 ]; then
            total=$((total + bytes - have + 4 * bytes)) # text: 470 MB of two files, and their reduced copies
        else
            total=$((total + bytes - have + bytes + files * 4096)) # JPEG does not shrink; files fill whole blocks
        fi
    done <<<"$archives"
    printf '%s\n' "$total"
}

download() { # address, part file, bytes
    local attempt error status have
    for attempt in 1 2 3 4 5; do
        # A complete part cannot be resumed: the server would answer with an error.
        [ "$(bytes_of "$2")" -lt "$3" ] || return 0
        have=$(bytes_of "$2")
        say "downloading $1, $(gigabytes "$3"), from byte $have"
        local options=(--fail --location --continue-at - --output "$2"
            --connect-timeout 30 --speed-limit 1 --speed-time 60) # gives up a connection that stalls for a minute
        status=0 error=''
        if [ -t 2 ]; then
            curl "${options[@]}" --progress-bar -- "$1" || status=$?
        else
            error=$(curl "${options[@]}" --silent --show-error -- "$1" 2>&1) || status=$?
        fi
        case $status in
            0) return 0 ;;
            18 | 28 | 55 | 56 | 92) say "the connection broke (curl status $status, attempt $attempt of 5)" ;;
            33)
                say "this server cannot resume; starting over"
                rm -f -- "$2"
                ;;
            *) break ;;
        esac
    done
    die "$1 could not be downloaded: ${error:-curl status $status}; run again to resume"
}

sum_of() {
    local sum
    sum=$(md5sum <"$1") && printf '%s\n' "${sum%% *}"
}

fetch() { # path, md5, bytes: afterwards the archive exists and its checksum is right
    local name=${1##*/} sum
    local zip=$dir/$name
    if [ -f "$zip" ]; then
        say "checking $zip"
        sum=$(sum_of "$zip")
        [ "$sum" = "$2" ] || die "$zip has MD5 $sum, not $2; move it away and run again"
        return
    fi
    download "$url/$1" "$zip.part" "$3"
    say "checking $zip"
    sum=$(sum_of "$zip.part")
    if [ "$sum" != "$2" ]; then
        rm -f -- "$zip.part"
        die "$url/$1 has MD5 $sum, not $2; removed"
    fi
    mv -- "$zip.part" "$zip"
}

unpack() { # name, files
    local zip=$dir/$1.zip scratch=$dir/.unpacking-$1 images error
    say "unpacking $zip"
    mkdir -- "$scratch"
    if [ "$1" = annotations_trainval2017 ]; then # without the captions and key points
        error=$(cd -- "$dir" && unzip -q "$1.zip" 'annotations/instances_*2017.json' -d "$scratch" 2>&1) ||
            die "$zip was not unpacked: ${error##*$'\n'}"
        for split in train val; do
            [ -f "$scratch/annotations/instances_${split}2017.json" ] ||
                die "$zip holds no annotations/instances_${split}2017.json"
        done
        mv -- "$scratch"/annotations/instances_*2017.json "$dir/annotations/"
    else
        error=$(cd -- "$dir" && unzip -q "$1.zip" -d "$scratch" 2>&1) || die "$zip was not unpacked: ${error##*$'\n'}"
        [ -d "$scratch/$1" ] || die "$zip holds no folder $1"
        images=$(images_in "$scratch/$1")
        [ "$images" = "$2" ] || die "$zip holds $images images, not $2"
        # A rename, so that a folder under its final name is always complete.
        mv -- "$scratch/$1" "$dir/$1"
    fi
    rm -rf -- "$scratch"
}

# Remove what an interrupted run began to unpack; it would count as used space.
rm -rf -- "$dir"/.unpacking-*
wanted=$(wanted_space)
available=$(df --output=avail -B1 -- "$dir" | tail -n 1)
if [ "$wanted" -gt 0 ]; then
    say "needs $(gigabytes "$wanted") in $dir, where $(gigabytes "$available") is free"
    [ "$available" -ge "$wanted" ] ||
        die "too little space in $dir: needs $(gigabytes "$wanted"), available $(gigabytes "$available")"
fi

while read -r path md5 bytes files; do
    name=${path##*/} && name=${name%.zip}
    if is_unpacked "$name" "$files"; then
        say "$name exists already"
    else
        fetch "$path" "$md5" "$bytes"
        unpack "$name" "$files"
    fi
    if [ -n "$delete" ]; then rm -f -- "$dir/$name.zip"; fi
done <<<"$archives"

for split in train val; do
    reduced=$dir/annotations/bbox_only_instances_${split}2017.json
    [ -f "$reduced" ] || "$python" "$root/prepare-json.py" "$dir/annotations/instances_${split}2017.json" "$reduced" ||
        exit 1 # it has printed the reason
done
say "ready: $dir"
