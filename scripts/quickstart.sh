#!/usr/bin/env bash
# The benchmark in small, from scratch: set-up, a synthetic data set, training to the target with the same
# run_and_time.sh as a real submission, the compliance checker, an image of detections.
#
#   scripts/quickstart.sh [--detector ssd|retinanet] [flags of `python -m ssd train`, e.g. --seed 3]
#
# DATADIR replaces the data set folder data/quickstart, RUNDIR the run folder runs/quickstart-TIME.
set -eu

config=config_quickstart.sh
case ${1:-} in
    --detector | --detector=*)
        detector=${1#--detector}
        detector=${detector#=}
        if [ "$1" = --detector ]; then
            [ $# -ge 2 ] || { echo "quickstart.sh: --detector needs a name: ssd or retinanet" >&2 && exit 2; }
            detector=$2
            shift
        fi
        shift
        case $detector in
            ssd) ;;
            retinanet) config=config_quickstart_retinanet.sh ;;
            *) echo "quickstart.sh: --detector $detector: ssd or retinanet" >&2 && exit 2 ;;
        esac
        ;;
esac

for argument in "$@"; do
    case $argument in
        --detector | --detector=*)
            echo "quickstart.sh: --detector: name it before all other flags" >&2
            exit 2
            ;;
        --data-dir | --data-dir=* | --output | --output=*)
            echo "quickstart.sh: ${argument%%=*}: set DATADIR (the data set) or RUNDIR (the run's folder) instead" >&2
            exit 2
            ;;
    esac
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh"
# shellcheck source=config_quickstart.sh
. "$root/$config"

export PYTHON="$root/.venv/bin/python"
export DATADIR="${DATADIR:-$root/data/quickstart}"
RUNDIR="${RUNDIR:-$root/runs/quickstart-$(date +%Y%m%d-%H%M%S)}"
export RUNDIR
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

"$PYTHON" -m ssd make-shapes "$DATADIR" --train-images "${TRAIN_IMAGES:-480}" --val-images "${VAL_IMAGES:-120}"
status=0
"$root/run_and_time.sh" "$@" || status=$?
[ "$status" = 0 ] || exit "$status"
exec "$PYTHON" "$root/scripts/quickstart_summary.py" "$RUNDIR" "$DATADIR"
