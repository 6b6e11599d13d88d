#!/usr/bin/env bash
# One timed training run. Started alone, or once per rank by srun, mpirun or horovodrun; on a plain machine or in the
# container. Source a config_*.sh first. Arguments are passed on to `python -m ssd train`.
#
# Variables: RECIPE, BATCHSIZE, NUMEPOCHS (from the config); DATADIR, the data set, and RUNDIR, the new folder of the
# run. Optional: EXTRA_PARAMS, SUBMISSION_ORG, SUBMISSION_PLATFORM, NSOCKET, SOCKETCORES, HT (config_PG.sh explains
# them); SEED; PRETRAINED_BACKBONE, an .onnx file; CACHEDIR, the folder for results of data set checks; RESUME=auto,
# resume from the newest checkpoint in RUNDIR; CACHE_CLEARED, a description of what the caller has dropped from every
# node's file cache, so that the log may claim it; BIND=no, leave every rank on all cores; PYTHON.
#
# Exit status: training's own (docs/commands.md lists it); 2 for a missing variable.
set -u

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

# This rank's number, from the first launcher that sets one, in the order of ssd/training/ranks.py: horovodrun, mpirun,
# srun. SLURM_STEP_TASKS_PER_NODE ("4(x2),3") is set only under srun, unlike SLURM_NTASKS_PER_NODE.
rank=${HOROVOD_RANK:-${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-${PMI_RANK:-${SLURM_PROCID:-0}}}}}
if [ -n "${HOROVOD_LOCAL_RANK:-}" ]; then
    local_rank=$HOROVOD_LOCAL_RANK local_size=${HOROVOD_LOCAL_SIZE:-1}
elif [ -n "${OMPI_COMM_WORLD_LOCAL_RANK:-}" ]; then
    local_rank=$OMPI_COMM_WORLD_LOCAL_RANK local_size=${OMPI_COMM_WORLD_LOCAL_SIZE:-1}
elif [ -n "${SLURM_STEP_TASKS_PER_NODE:-}" ]; then
    local_rank=${SLURM_LOCALID:-0} local_size=${SLURM_STEP_TASKS_PER_NODE%%[(,]*}
else
    local_rank=0 local_size=1
fi
say() { # only rank 0 prints
    [ "$rank" != 0 ] || printf '%s\n' "$*"
}

missing=()
for name in RECIPE BATCHSIZE NUMEPOCHS DATADIR RUNDIR; do
    [ -n "${!name:-}" ] || missing+=("$name")
done
if [ "${#missing[@]}" -gt 0 ]; then
    say "run_and_time.sh: ${missing[*]} is not set; source a config_*.sh first and set DATADIR and RUNDIR" >&2
    exit 2
fi

if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ ! -x "$here/.venv/bin/python" ] || PYTHON=$here/.venv/bin/python
fi

# EXTRA_PARAMS is a list of flags in one variable, split at spaces and line breaks on purpose.
read -r -d '' -a extra <<<"${EXTRA_PARAMS:-}"
flags=(--recipe "$RECIPE" --batch-size "$BATCHSIZE" --epochs "$NUMEPOCHS" --data-dir "$DATADIR" --output "$RUNDIR")
optional() { [ -z "$2" ] || flags+=("$1" "$2"); }
optional --seed "${SEED:-}"
optional --pretrained-backbone "${PRETRAINED_BACKBONE:-}"
optional --cache-dir "${CACHEDIR:-}"
optional --submission-org "${SUBMISSION_ORG:-}"
optional --submission-platform "${SUBMISSION_PLATFORM:-}"
optional --resume "${RESUME:-}"
[ -z "${CACHE_CLEARED:-}" ] || flags+=(--cache-cleared)

# "0,0,1,1": the NUMA node of each GPU, or nothing if unknown.
gpu_nodes() {
    local bus node nodes=''
    [ -z "${CUDA_VISIBLE_DEVICES:-}" ] && command -v nvidia-smi >/dev/null 2>&1 || return 0
    while read -r bus; do
        bus=${bus,,}
        node=$(cat "/sys/bus/pci/devices/${bus: -12}/numa_node" 2>/dev/null) && [ "${node:--1}" -ge 0 ] || return 0
        nodes+=${nodes:+,}$node
    done < <(nvidia-smi --query-gpu=pci.bus_id --format=csv,noheader 2>/dev/null)
    printf '%s\n' "$nodes"
}

status_field() { sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status" 2>/dev/null; }

# Sets `bind` to the numactl command that binds this rank to its cores and their memory, or prints why it stays empty.
choose_binding() {
    local cpus launcher_cpus plan arguments cores wanted
    bind=()
    if [ "${BIND:-yes}" = no ]; then
        say "binding: none, because of BIND=no"
        return
    fi
    if ! command -v numactl >/dev/null 2>&1 || ! command -v lscpu >/dev/null 2>&1; then
        say "binding: none, numactl or lscpu is not installed"
        return
    fi
    cpus=$(status_field self Cpus_allowed_list)
    launcher_cpus=$(status_field "$PPID" Cpus_allowed_list)
    if [ "$local_size" -gt 1 ] && [ -n "$launcher_cpus" ] && [ "$cpus" != "$launcher_cpus" ]; then
        say "binding: the launcher has already bound rank 0 to CPUs $cpus; unchanged"
        return
    fi
    wanted="${NSOCKET:-0} x ${SOCKETCORES:-0} x ${HT:-0}"
    lscpu --parse=CPU,CORE,SOCKET,NODE >/dev/null 2>&1 || return
    [[ $wanted == *"0 x"* || $wanted == *"x 0" ]] || compare_with_config "$wanted"
    plan=$(lscpu --parse=CPU,CORE,SOCKET,NODE | "$PYTHON" "$here/scripts/bind_rank.py" --local-rank "$local_rank" \
        --local-size "$local_size" --cpus "$cpus" --memory "$(status_field self Mems_allowed_list)" \
        --gpu-nodes "$(gpu_nodes)" 2>&1)
    if [[ $plan != --* ]]; then
        say "binding: none, $plan"
        return
    fi
    { read -r -a arguments && read -r cores; } <<<"$plan"
    # Containers without CAP_SYS_NICE cannot call mbind; some cannot set affinities either.
    if numactl "${arguments[@]}" true >/dev/null 2>&1; then
        bind=(numactl "${arguments[@]}" --)
    elif numactl "${arguments[0]}" true >/dev/null 2>&1; then
        bind=(numactl "${arguments[0]}" --)
        say "binding: only of cores, numactl ${arguments[*]:1} is not permitted here"
    else
        say "binding: none, numactl ${arguments[*]} is not permitted here"
        return
    fi
    # This is one rank's share: ssd/threads.py must not divide it by the number of ranks again.
    [ -n "${OMP_NUM_THREADS:-}" ] || export OMP_NUM_THREADS="$cores"
    echo "binding: rank $rank: ${bind[*]:0:${#bind[@]}-1}; $OMP_NUM_THREADS OpenMP threads"
}

compare_with_config() { # "sockets x cores x threads" of the config; the machine's own topology is always used
    local found
    found=$(lscpu --parse=CPU,CORE,SOCKET | awk -F, '!/^#/ { cpus++; cores[$3 "," $2]; sockets[$3] }
        END { s = length(sockets); c = length(cores); print s " x " c / s " x " cpus / c }')
    [ "$found" = "$1" ] || say "binding: the config names $1 (sockets, cores of each, threads of each core)," \
        "this machine has $found; the latter is used"
}

choose_binding
start=$(date +%s)
start_text=$(date +"%Y-%m-%d %r")
say "STARTING TIMING RUN AT $start_text"

# Training saves and exits on a signal, and its status is needed. A shell that waits for a foreground command would be
# killed by the signal, so training runs in the background and signals are forwarded. Slurm signals every process of a
# step, so training may get a signal twice. A background command ignores SIGINT unless that is undone.
caught=
# shellcheck disable=SC2317  # called by the traps
pass_on() {
    caught=yes
    kill -s "$1" "$child" 2>/dev/null
}
(
    trap - INT
    PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 \
        exec ${bind[@]+"${bind[@]}"} "$PYTHON" -m ssd train "${flags[@]}" ${extra[@]+"${extra[@]}"} "$@"
) &
child=$!
trap 'pass_on TERM' TERM
trap 'pass_on USR1' USR1
trap 'pass_on INT' INT
wait "$child"
status=$?
while [ -n "$caught" ]; do # a signal ends `wait` too, with its own status
    caught=
    wait "$child"
    status=$?
done

end=$(date +%s)
say "ENDING TIMING RUN AT $(date +"%Y-%m-%d %r")"
case $status in
    0) say "RESULT,SINGLE_STAGE_DETECTOR,,$((end - start)),${SUBMISSION_ORG:-unnamed},$start_text" ;;
    75) say "run_and_time.sh: stopped by a signal (status 75), with a checkpoint; RESUME=auto resumes from it" >&2 ;;
    *) say "run_and_time.sh: training ended with status $status" >&2 ;;
esac
exit "$status"
