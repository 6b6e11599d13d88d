#!/usr/bin/env bash
# One training run, timed. Runs alone, or once per rank under srun, mpirun or horovodrun; on a plain machine or in
# the container. A config_*.sh must have been sourced. Further arguments go to `python -m ssd train` as they are.
#
# Variables: RECIPE, BATCHSIZE, NUMEPOCHS (from the config); DATADIR, the data set, and RUNDIR, the new folder of the
# run; optional: EXTRA_PARAMS, SEED, PRETRAINED_BACKBONE, SUBMISSION_ORG, SUBMISSION_PLATFORM, PYTHON.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

for name in RECIPE BATCHSIZE NUMEPOCHS DATADIR RUNDIR; do
    if [ -z "${!name:-}" ]; then
        echo "run_and_time.sh: $name is not set; source a config_*.sh first and set DATADIR and RUNDIR" >&2
        exit 2
    fi
done

if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x "$here/.venv/bin/python" ] && PYTHON=$here/.venv/bin/python
fi

flags=(--recipe "$RECIPE" --batch-size "$BATCHSIZE" --epochs "$NUMEPOCHS" --data-dir "$DATADIR" --output "$RUNDIR")
[ -n "${SEED:-}" ] && flags+=(--seed "$SEED")
[ -n "${PRETRAINED_BACKBONE:-}" ] && flags+=(--pretrained-backbone "$PRETRAINED_BACKBONE")
[ -n "${SUBMISSION_ORG:-}" ] && flags+=(--submission-org "$SUBMISSION_ORG")
[ -n "${SUBMISSION_PLATFORM:-}" ] && flags+=(--submission-platform "$SUBMISSION_PLATFORM")
# EXTRA_PARAMS is a list of flags in one variable: it is split at blanks on purpose.
read -r -a extra <<< "${EXTRA_PARAMS:-}"

# Of several ranks, only the first speaks; the launcher says which that is.
rank=${HOROVOD_RANK:-${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-${SLURM_PROCID:-0}}}}

start=$(date +%s)
start_text=$(date +"%Y-%m-%d %r")
[ "$rank" = 0 ] && echo "STARTING TIMING RUN AT $start_text"

PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 \
    "$PYTHON" -m ssd train "${flags[@]}" ${extra[@]+"${extra[@]}"} "$@"
status=$?

end=$(date +%s)
if [ "$rank" = 0 ]; then
    echo "ENDING TIMING RUN AT $(date +"%Y-%m-%d %r")"
    if [ "$status" = 0 ]; then
        echo "RESULT,SINGLE_STAGE_DETECTOR,,$((end - start)),${SUBMISSION_ORG:-unnamed},$start_text"
    else
        echo "run_and_time.sh: training ended with status $status" >&2
    fi
fi
exit "$status"
