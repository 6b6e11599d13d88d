"""A program that saves checkpoints and is killed: `python save_forever.py`, orders on standard
input.

For each line [FOLDER, KILL_AT] it forks a process, says "pid N", and says "dead STATUS" when that
one has ended (forked, since NumPy takes longer to import than fifty checkpoints take to be
written). With KILL_AT null the process saves ever new steps and says "done STEP" after each. With a
number it saves step 3 twice, and kills itself before its KILL_ATth operation on files.
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

DEADLINE = 60.0  # seconds that no process outlives
OPERATIONS = (
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "shutil.rmtree",
)  # Python's audit events


def content(step, again=0):
    """(arrays, state), all of it different for every (step, again): 0.4 MB in three files."""
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
    """Is all of a checkpoint, to the last bit, what `content(step, again)` is?"""
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


def say(line):
    os.write(1, (line + "\n").encode())


def save_forever(folder):
    parent, end = os.getppid(), time.monotonic() + DEADLINE
    store = CheckpointStore(folder)
    newest = store.newest()
    step = newest.step if newest else 0
    while os.getppid() == parent and time.monotonic() < end:
        step += 1
        store.save(step, *content(step), wait=True)
        say(f"done {step}")


def save_and_die(folder, kill_at):
    left = kill_at

    def count(event, _):
        nonlocal left
        if event in OPERATIONS:
            left -= 1
            if left == 0:
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
        say(f"pid {pid}")
        say(f"dead {os.waitpid(pid, 0)[1]}")


if __name__ == "__main__":
    main()
