#!/usr/bin/env python3
"""Stands for `python -m ssd train` in tests of what starts it: statuses, signals, checkpoints,
without a network.

Run as PYTHON of run_and_time.sh. FAKE says what happens: "ok"; "status N"; "status N in trial T";
"wait": it waits for TERM, USR1 or INT, leaves a file `checkpoint` in the run's folder, and ends
with 75. With --resume and a checkpoint it says so and ends well. "mpi": it starts MPI, by the Open
MPI that is installed. Rank 0 prints its arguments, its CPUs, the signal, and of its environment
what SHOW names.
"""

import ctypes
import os
import signal
import sys

if sys.argv[1:3] != ["-m", "ssd"]:  # run_and_time.sh asks its Python other things too
    os.execvp("python3", ["python3"] + sys.argv[1:])

rank = next(
    (
        os.environ[name]
        for name in ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
        if name in os.environ
    ),
    "0",
)
output = sys.argv[sys.argv.index("--output") + 1]
checkpoint = os.path.join(output, "checkpoint")
fake = os.environ.get("FAKE", "ok").split()


def say(text):
    if rank == "0":
        print("fake training:", text, flush=True)


def on_signal(number, _):
    global got
    got = number


got = None
for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
    signal.signal(getattr(signal, name), on_signal)
say(" ".join(sys.argv[4:]))
say("affinity %d" % len(os.sched_getaffinity(0)))
say(
    "environment "
    + " ".join(f"{name}={os.environ.get(name)}" for name in os.environ.get("SHOW", "").split())
)
os.makedirs(output, exist_ok=True)
if "--resume" in sys.argv and os.path.exists(checkpoint):
    say("resumed")
elif fake[0] == "wait" and (len(fake) == 1 or output.endswith("_" + fake[-1])):
    signals = {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    say("waiting")
    got = got or signal.sigwait(signals)
    say(f"got {signal.Signals(got).name}")
    open(checkpoint, "w").close()
    sys.exit(75)
elif fake[0] == "status" and (len(fake) == 2 or output.endswith("_" + fake[-1])):
    print("python -m ssd train: the cause", flush=True)
    sys.exit(int(fake[1]))
elif fake[0] == "mpi":
    ctypes.CDLL("libmpi.so.40", ctypes.RTLD_GLOBAL).MPI_Init(None, None)
