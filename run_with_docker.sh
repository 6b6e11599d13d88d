#!/usr/bin/env bash
# Runs all trials of one system on this machine, in one Docker container:
#
#   source config_PG.sh
#   CONT=<image> DATADIR=<dir> LOGDIR=<dir> PRETRAINED_DIR=<dir> ./run_with_docker.sh
#
# CONT: an image with the project in /workspace/ssd, local or in a registry. DATADIR: the data set, mounted read-only.
# LOGDIR: the folder for results, created if missing: SYSTEM_DATE_TRIAL.log and the run folder SYSTEM_DATE_TRIAL.
# PRETRAINED_DIR: the folder with BACKBONE-*.onnx, or "none". Optional: SEED; BIND=no; HOROVOD_*, MXNET_*, NCCL_* and
# OMP_*, which override the image's values; STOP_SECONDS, how long a stopped training may take to save [120].
#
# On TERM or INT training saves and exits, and no trial follows; a second signal ends it at once. The container is
# always removed. Exit status: 0 if every trial succeeded, else that of the first that failed; 143 or 130 after a
# signal. After a failed trial the next one still runs, unless it would fail for the same reason: a mistake in settings or data
# (status 2). Status 2 also means a mistake found before training.
set -u

say() { printf 'run_with_docker.sh: %s\n' "$*"; }
fail() {
    printf 'run_with_docker.sh: %s\n' "$*" >&2
    exit 2
}

# ---- checks

missing=()
for name in SYSTEM NNODES NEXP NGPU NSOCKET SOCKETCORES HT RECIPE BATCHSIZE NUMEPOCHS EXTRA_PARAMS SUBMISSION_ORG \
    SUBMISSION_PLATFORM; do
    [ -n "${!name:-}" ] || missing+=("$name")
done
[ "${#missing[@]}" = 0 ] || fail "${missing[*]} is not set; source a config_*.sh first"
for name in CONT DATADIR LOGDIR PRETRAINED_DIR; do
    [ -n "${!name:-}" ] || missing+=("$name")
done
[ "${#missing[@]}" = 0 ] || fail "${missing[*]} is not set; call it as ${missing[0]}=... ./run_with_docker.sh"
STOP_SECONDS=${STOP_SECONDS:-120}
for name in NNODES NEXP NGPU BATCHSIZE NUMEPOCHS STOP_SECONDS; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "$name=${!name}: a whole number of at least 1 is needed"
done
[[ $SYSTEM =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] ||
    fail "SYSTEM=$SYSTEM: only letters, digits, . - and _ are allowed, since it names files"
BACKBONE=${BACKBONE:-resnet34}
[[ $BACKBONE =~ ^[A-Za-z0-9_]+$ ]] || fail "BACKBONE=$BACKBONE: only letters, digits and _ are allowed, as in resnet34"
[ "$NNODES" = 1 ] || fail "NNODES=$NNODES: this script is for one machine; run.sub is for several"

[ -d "$DATADIR" ] || fail "DATADIR=$DATADIR: no such folder"
mkdir -p -- "$LOGDIR" 2>/dev/null || fail "LOGDIR=$LOGDIR: cannot be created"
file=$(mktemp "$LOGDIR/.run_with_docker.XXXXXX" 2>/dev/null) || fail "LOGDIR=$LOGDIR: user $(id -un) cannot write there"
rm -f -- "$file"
backbone=
if [ "$PRETRAINED_DIR" != none ]; then
    [ -d "$PRETRAINED_DIR" ] || fail "PRETRAINED_DIR=$PRETRAINED_DIR: no such folder"
    files=("$PRETRAINED_DIR/$BACKBONE"-*.onnx)
    # shellcheck disable=SC2015  # both, or it fails
    [ "${#files[@]}" = 1 ] && [ -f "${files[0]}" ] ||
        fail "PRETRAINED_DIR=$PRETRAINED_DIR: exactly one file $BACKBONE-*.onnx is needed" \
            "(scripts/get_backbone.sh ${BACKBONE/_pyramid/ --pyramid} makes it), or none for random weights"
    backbone=${files[0]##*/}
    PRETRAINED_DIR=$(cd -- "$PRETRAINED_DIR" && pwd) || exit 2
fi
DATADIR=$(cd -- "$DATADIR" && pwd) && LOGDIR=$(cd -- "$LOGDIR" && pwd) || exit 2

[[ " $EXTRA_PARAMS " =~ [[:space:]]--device[[:space:]=]+cpu[[:space:]] ]] && device=cpu || device=gpu
if [ "$device" = gpu ]; then
    gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU')
    [ "$gpus" -ge "$NGPU" ] || fail "NGPU=$NGPU: this machine has $gpus GPUs (nvidia-smi --list-gpus);" \
        "to run without GPUs, put --device cpu into EXTRA_PARAMS"
else
    cpus=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)    # nproc would obey both
    [ "$cpus" -ge "$NGPU" ] || fail "NGPU=$NGPU: more ranks than the $cpus CPUs of this machine"
fi

command -v docker >/dev/null 2>&1 || fail "docker is not installed"
answer=$(timeout 60 docker version --format '{{.Server.Version}}' 2>&1) ||
    fail "Docker does not answer: $(tail -n 1 <<<"$answer")"
docker image inspect "$CONT" >/dev/null 2>&1 || {
    say "CONT=$CONT: not on this machine; pulling it"
    answer=$(docker pull --quiet "$CONT" 2>&1) ||
        fail "CONT=$CONT: not found here or in a registry: $(tail -n 1 <<<"$answer")"
}

# ---- the container

# Of two calls in one second with one LOGDIR, the second takes the next name.
second=$(date +%y%m%d%H%M%S)
for ((call = 1; ; call++)); do
    run_name=${SYSTEM}_$second
    [ "$call" = 1 ] || run_name+=-$call
    # shellcheck disable=SC2188  # creates the file, unless it exists
    (set -C && >"$LOGDIR/${run_name}_1.log") 2>/dev/null && break
    [ -e "$LOGDIR/${run_name}_1.log" ] || fail "LOGDIR=$LOGDIR: ${run_name}_1.log cannot be created"
done
container=ssd_${run_name}_$$ # unique on this machine, whatever the LOGDIR
stopped=''

# shellcheck disable=SC2317  # called by the trap
cleanup() {
    docker rm --force "$container" >/dev/null 2>&1
    [ -s "$LOGDIR/${run_name}_1.log" ] || rm -f -- "$LOGDIR/${run_name}_1.log"
}

# Training gets USR1, which mpirun forwards to every rank (on TERM it would kill them), saves and exits.
# shellcheck disable=SC2317  # called by the traps
stop() { # signal, exit status
    [ -z "$stopped" ] || exit "$2"
    stopped=$2
    say "SIG$1: training saves and exits within $STOP_SECONDS s; a second signal ends it at once" >&2
    # shellcheck disable=SC2016  # expanded in the container
    docker exec --detach "$container" bash -c '
        for ((tenths = 0; tenths < 100; tenths++)); do
            [ ! -s /tmp/trial.pid ] || break
            sleep 0.1
        done
        kill -USR1 "$(cat /tmp/trial.pid)"
        sleep "$0"
        kill -KILL -1' "$STOP_SECONDS" >/dev/null 2>&1
}
trap cleanup EXIT
trap 'stop TERM 143' TERM
trap 'stop INT 130' INT
trap 'stop HUP 129' HUP

# One field of --mount, which is CSV: quoted, so that a path may contain commas and spaces.
mount_from() { printf '"source=%s"' "${1//\"/\"\"}"; }

options=(
    --mount "type=bind,$(mount_from "$DATADIR"),target=/data,readonly"
    --mount "type=bind,$(mount_from "$LOGDIR"),target=/results"
    --network=host             # ranks use local sockets and shared memory; a virtual network is useless
    --ipc=host                 # NCCL and DALI share memory between processes; Docker's own /dev/shm has 64 MB
    --ulimit stack=67108864    # MXNet walks its graphs recursively
    --cap-add SYS_NICE         # numactl may bind memory to a socket
)
[ -z "$backbone" ] || options+=(--mount "type=bind,$(mount_from "$PRETRAINED_DIR"),target=/pretrained,readonly")
if [ "$device" = gpu ]; then
    options+=(--gpus "$NGPU" --ulimit memlock=-1) # pinned buffers count as locked memory
else
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-} # the image's value is for GPUs; empty: a rank takes its share of the cores
    export OMP_NUM_THREADS
fi
for name in RECIPE BATCHSIZE NUMEPOCHS EXTRA_PARAMS SUBMISSION_ORG SUBMISSION_PLATFORM NSOCKET SOCKETCORES HT SEED \
    BIND $(compgen -e | grep -E '^(HOROVOD|MXNET|NCCL|OMP)_'); do
    [ -z "${!name+set}" ] || options+=(--env "$name") # without a value, docker takes it from this environment
done
options+=(--env DATADIR=/data --env CACHEDIR=/results/cache)
[ -z "$backbone" ] || options+=(--env "PRETRAINED_BACKBONE=/pretrained/$backbone")

answer=$(docker run --detach --name "$container" "${options[@]}" "$CONT" sleep infinity 2>&1 >/dev/null) ||
    fail "CONT=$CONT: the container does not start: $(grep -m 1 . <<<"$answer")"
# Root in the container may have fewer rights than this user, for example on NFS that squashes root.
docker exec "$container" ls /data/. >/dev/null 2>&1 || fail "DATADIR=$DATADIR: root in the container cannot read it"
docker exec "$container" bash -c 'file=$(mktemp /results/.run_with_docker.XXXXXX) && rm "$file"' >/dev/null 2>&1 ||
    fail "LOGDIR=$LOGDIR: root in the container cannot write there"
docker exec "$container" test -x /workspace/ssd/run_and_time.sh ||
    fail "CONT=$CONT: no /workspace/ssd/run_and_time.sh in this image; the Dockerfile puts it there"

# ---- the trials

drop_file_cache() {
    sync
    { echo 3 >/proc/sys/vm/drop_caches; } 2>/dev/null ||
        echo 3 | sudo -n tee /proc/sys/vm/drop_caches >/dev/null 2>&1
}

# --bind-to none: run_and_time.sh binds the ranks. odls_base_sigkill_timeout: after a rank has failed or was stopped by
# a signal, the others have twice these 10 s to exit on their own, then mpirun kills them (it always waits that long).
# The last: Docker forbids processes to read each other's memory, which Open MPI would otherwise try.
launch=()
[ "$NGPU" = 1 ] || launch=(mpirun --allow-run-as-root --bind-to none -np "$NGPU" --mca odls_base_sigkill_timeout 10
    --mca btl_vader_single_copy_mechanism none)

run_trial() { # number; returns training's status
    local base=${run_name}_$1 dropped='' child status
    if drop_file_cache; then
        dropped="system: page cache, dentries and inodes"
    else
        say "trial $1: the file cache could not be dropped (this takes root or passwordless sudo), so the" \
            "log does not claim cache_clear" | tee -a "$LOGDIR/$base.log" >&2
    fi
    # In its own session, so that Ctrl-C at a terminal reaches only this script. `stop` needs the pid.
    # shellcheck disable=SC2016  # expanded in the container
    setsid docker exec --env "RUNDIR=/results/$base" --env "CACHE_CLEARED=$dropped" --workdir /workspace/ssd \
        "$container" bash -c 'echo $$ >/tmp/trial.pid; exec "$@"' bash \
        ${launch[@]+"${launch[@]}"} ./run_and_time.sh </dev/null >>"$LOGDIR/$base.log" 2>&1 &
    child=$!
    wait "$child"
    status=$?
    while kill -0 "$child" 2>/dev/null; do # a signal ends `wait` too, with its own status
        wait "$child"
        status=$?
    done
    return "$status"
}

# begin of cause_of, which run.sub has too
# Prints why a trial failed, at most three lines of its log, read from line $2: Pyxis's errors, else MPI's message about
# PMI, else training's own last line, else the last lines. Lines that only report that it ended are left out.
cause_of() {
    tail -n "+$2" -- "$1" | awk '
        /^[[:space:]]*$|^:::MLLOG|^-+$|^(STARTING|ENDING) TIMING RUN|^run_and_time.sh: (training ended|stopped)/ ||
        /^binding: |Exited with exit code|[Ff]orc(e|ing) [Tt]erminat|Terminating StepId|Job step aborted|\*\*\* STEP/ ||
        /task_init\(\) failed|Failed to invoke spank|could(n.t| not) start container|printing enroot log/ ||
        /not started successfully|pyxis: import|(child [0-9]+|start|create) failed with error code/ ||
        /^(Primary job|mpirun (detected|noticed)) |^a non-zero exit code|^the job to be terminated|^ +Process name: / ||
        /^ +Exit code: / || seen[$0]++ { next }
        /pyxis: / { sub(/^.*pyxis: */, ""); if (!said[$0]++) pyxis[++p] = "pyxis: " $0; next }
        /PMI(x|X)? support|PMI(x|X|2)?.*(UNREACHABLE|not (found|initialized))/ { if (mpi == "") mpi = $0 }
        /^python -m ssd/ { own = $0 }
        { last[++n] = $0 }
        END {
            if (p) for (i = p > 3 ? p - 2 : 1; i <= p; i++) print pyxis[i]
            else if (mpi != "") print mpi
            else if (own != "") print own
            else for (i = n > 3 ? n - 2 : 1; i <= n; i++) print last[i]
        }'
}
# end of cause_of

say "container $container from $CONT, $NGPU rank(s), $device"
worst=0
for ((trial = 1; trial <= NEXP; trial++)); do
    [ -z "$stopped" ] || break
    seconds=$SECONDS
    docker exec "$container" rm -f /tmp/trial.pid
    run_trial "$trial"
    status=$?
    file=$LOGDIR/${run_name}_$trial
    say "trial $trial of $NEXP: status $status after $((SECONDS - seconds)) s: $file.log"
    [ "$worst" != 0 ] || worst=$status
    if [ -n "$stopped" ] || [ "$status" = 0 ]; then continue; fi
    cause_of "$file.log" 1 | sed 's/^/    /' >&2
    if [ "$status" = 2 ] && [ "$trial" != "$NEXP" ]; then
        say "no further trial, since each would fail the same way: the settings or the data are wrong" >&2
        break
    fi
done
if [ -n "$stopped" ]; then
    say "stopped by a signal; logs and checkpoints are kept: $LOGDIR/$run_name*" >&2
    exit "$stopped"
fi
exit "$worst"
