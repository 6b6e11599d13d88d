"""A program that saves checkpoints and is killed: `python save_forever.py`, commands on standard
input.

For each line [FOLDER, KILL_AT] it forks a process, prints "pid N", and prints "dead STATUS" when
that process has ended (forked, since importing NumPy takes longer than writing fifty checkpoints).
With KILL_AT null the process saves one step after another and prints "done STEP" after each. With a
number it saves step 3 twice, and kills itself before its KILL_ATth file operation.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback

import numpy as np

from ssd.checkpoints.store import CheckpointStore

DEADLINE = 60.0  # seconds after which every process ends
OPERATIONS = (
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "shutil.rmtree",
)  # Python's audit events


def content(step, again=0):
    """(arrays, state), both different for every (step, again): 0.4 MB in three files."""
    rng = np.random.default_rng([step, again])
    arrays = {
        "parameters": {
            "conv1/weight.0": rng.standard_normal((200, 250), np.float32),
            "bias": rng.random(7),
        },
        "momenta": {"conv1/weight.0": rng.standard_normal((200, 250), np.float32)},
        "ranks": {"keys": rng.integers(0, 2**63, 4)},
    }
    return arrays, {"step": step, "again": again, "noise": rng.integers(0, 2**31, 100).tolist()}


def is_entirely(checkpoint, step, again=0):
    """Whether a checkpoint is `content(step, again)` to the last bit."""
    arrays, state = content(step, again)
    return (
        checkpoint.step == step
        and checkpoint.state == state
        and checkpoint.arrays.keys() == arrays.keys()
        and all(found.keys() == arrays[group].keys() for group, found in checkpoint.arrays.items())
        and all(
            found.dtype == arrays[group][name].dtype and np.array_equal(found, arrays[group][name])
            for group, members in checkpoint.arrays.items()
            for name, found in members.items()
        )
    )


def print_line(line):
    os.write(1, (line + "\n").encode())


def save_forever(folder):
    parent, end = os.getppid(), time.monotonic() + DEADLINE
    store = CheckpointStore(folder)
    newest = store.newest()
    step = newest.step if newest else 0
    while os.getppid() == parent and time.monotonic() < end:
        step += 1
        store.save(step, *content(step), wait=True)
        print_line(f"done {step}")


def save_and_die(folder, kill_at):
    remaining = kill_at

    def count(event, _):
        nonlocal remaining
        if event in OPERATIONS:
            remaining -= 1
            if remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    store = CheckpointStore(folder)
    for again in (0, 1):
        store.save(3, *content(3, again), wait=True)


def main():
    for line in sys.stdin:
        folder, kill_at = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                save_forever(folder) if kill_at is None else save_and_die(folder, kill_at)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        print_line(f"pid {pid}")
        print_line(f"dead {os.waitpid(pid, 0)[1]}")


if __name__ == "__main__":
    main()
