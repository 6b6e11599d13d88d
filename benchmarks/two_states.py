"""Two states of this repository side by side: `python -m ssd benchmark` of each, alternating.

    git worktree add ../before COMMIT
    python benchmarks/two_states.py ../before

Prints, round by round, images/s of training and of inference in both folders, and the ratio this /
before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

from turns import machine, ratios, spread

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODES = {"train": ["--steps", "4"], "infer": ["--steps", "10"]}


def images_per_second(folder: str, mode: str, flags) -> float:
    """Of `python -m ssd benchmark MODE` with the code in `folder`; a non-zero exit status raises
    CalledProcessError."""
    command = [sys.executable, "-m", "ssd", "benchmark", mode, *MODES[mode], "--json", "-", *flags]
    reply = subprocess.run(
        command, cwd=folder, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    numbers = json.loads(reply.stdout.decode().splitlines()[-1])
    return numbers["batch_size"] / numbers["step_seconds"]["mean"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", help="folder of the other state, a git worktree")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument(
        "--flags", nargs="*", default=[], help="of `ssd benchmark`, without their leading --"
    )
    arguments = parser.parse_args()
    flags = [flag if number % 2 else "--" + flag for number, flag in enumerate(arguments.flags)]
    print(machine(), flush=True)
    for mode in arguments.modes:
        speeds = [[], []]
        for number in range(arguments.rounds):
            for side in sorted(range(2), reverse=number % 2 == 1):
                speeds[side].append(images_per_second((arguments.before, HERE)[side], mode, flags))
            print(
                "%s, round %d: before %.3f, this %.3f images/s"
                % (mode, number + 1, speeds[0][-1], speeds[1][-1]),
                flush=True,
            )
        print(
            "{}: before {}, this {} images/s, ratio {}".format(
                mode,
                spread(speeds[0]),
                spread(speeds[1]),
                spread(ratios(speeds[1], speeds[0]), "%.3f"),
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
