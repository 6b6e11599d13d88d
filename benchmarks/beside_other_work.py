"""Commands alone and beside a busy process, with and without the choice of threads at their start.

    python benchmarks/beside_other_work.py train --data-dir data/quickstart
    python benchmarks/beside_other_work.py predict evaluate --data-dir data/quickstart --weights
    runs/a/weights.params

Complete commands of the quickstart's network, alternating: "before" has the OMP_NUM_THREADS and
GOMP_SPINCOUNT that every command took before ssd/threads.py looked for other work. train and ranks
(two, through Gloo): images/s of the steps after the first rows of train.csv; evaluate: images/s
that it prints for the training images, which are more; predict: validation images by the seconds of
the command, its start included.
--keep FILE adds the rounds to those of the file and prints the table of all, so that a long
comparison can be made in several sessions.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
from benchmarks import turns  # noqa: E402

KINDS = ("train", "predict", "evaluate", "ranks")
SETTLED = 1 / 3  # of the steps, which come before those that count
ROWS = 6  # of train.csv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="+", choices=KINDS)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--weights", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=36, help="of each training, a multiple of %d" % ROWS
    )
    parser.add_argument("--only-alone", action="store_true", help="run nothing beside them")
    parser.add_argument("--keep", metavar="FILE", default="")
    args = parser.parse_args()
    turns.end_workers_with_us()
    if not args.weights and {"predict", "evaluate"} & set(args.kinds):
        parser.error("predict and evaluate need --weights")
    print(turns.machine(), flush=True)
    found = {}
    if os.path.exists(args.keep):
        with open(args.keep, encoding="utf-8") as file:
            found = json.load(file)
    cells = [
        (busy, before) for busy in (False, True)[: 2 - args.only_alone] for before in (True, False)
    ]
    for number in range(args.rounds):
        for kind in args.kinds:
            for busy, before in cells[:: -1 if number % 2 else 1]:
                name = f"{kind} {'beside' if busy else 'alone'} {'before' if before else 'now'}"
                found.setdefault(name, []).append(measured(kind, args, busy, before))
                print(f"{name}: {found[name][-1]:.2f}", flush=True)
        if args.keep:
            with open(args.keep, "w", encoding="utf-8") as file:
                json.dump(found, file)
    for kind in KINDS:
        if f"{kind} alone now" in found:
            print(table_row(kind, found))


def table_row(kind: str, found) -> str:
    """Images/s alone before and now, beside before and now; now by before, alone; beside by alone,
    before and now."""
    values = [
        found.get(f"{kind} {where} {when}")
        for where in ("alone", "beside")
        for when in ("before", "now")
    ]
    cells = [turns.spread(one) if one else "" for one in values]
    pairs = ((1, 0), (2, 0), (3, 1))
    return (
        f"| {kind} | {' | '.join(cells)} | "
        + " | ".join(
            "%.2f" % (statistics.median(values[up]) / statistics.median(values[down]))
            if values[up]
            else ""
            for up, down in pairs
        )
        + f" | {len(values[0])} |"
    )


def measured(kind: str, args, busy: bool, before: bool) -> float:
    """Images/s of one run of a command."""
    environment = dict(os.environ, PYTHONPATH=ROOT)
    for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT"):
        environment.pop(name, None)
    if before:
        cores = len(os.sched_getaffinity(0))
        environment.update(
            OMP_NUM_THREADS=str(max(1, cores // (2 if kind == "ranks" else 1))),
            GOMP_SPINCOUNT="20000",
        )
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        with tempfile.TemporaryDirectory() as folder:
            return run(kind, args, environment, folder)
    finally:
        if other is not None:
            other.kill()
            other.wait()


def run(kind: str, args, environment, folder: str) -> float:
    program = [sys.executable, "-m", "ssd", "train" if kind == "ranks" else kind]
    data = ["--data-dir", os.path.abspath(args.data_dir)]
    if kind in ("train", "ranks"):
        output = os.path.join(folder, "run")
        ranks = 2 if kind == "ranks" else 1
        program += [
            *data,
            "--recipe",
            "ssd-resnet34-shapes",
            "--device",
            "cpu",
            "--seed",
            "1",
            "--no-report",
            "--batch-size",
            str(4 // ranks),
            "--max-steps",
            str(args.steps),
            "--eval-every",
            "1000",
            "--log-interval",
            str(args.steps // ROWS),
            "--output",
            output,
        ]
        if kind == "ranks":
            program = [
                os.path.join(os.path.dirname(sys.executable), "horovodrun"),
                "-np",
                "2",
                "--gloo",
                *program,
            ]
        call(program, environment, folder)
        with open(os.path.join(output, "train.csv"), newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        first, last = rows[int(len(rows) * SETTLED)], rows[-1]
        return (int(last["images"]) - int(first["images"])) / (
            float(last["seconds"]) - float(first["seconds"])
        )
    program += ["--weights", os.path.abspath(args.weights), "--device", "cpu"]
    if kind == "evaluate":
        data += [
            "--val-annotations",
            "annotations/bbox_only_instances_train2017.json",
            "--val-images",
            "train2017",
        ]
        return float(
            re.findall(r"([\d.]+) images/s", call([*program, *data], environment, folder))[-1]
        )
    images = os.path.abspath(os.path.join(args.data_dir, "val2017"))
    start = time.monotonic()
    call([*program, images, "--output", os.path.join(folder, "seen")], environment, folder)
    return len(os.listdir(images)) / (time.monotonic() - start)


def call(command, environment, folder: str) -> str:
    done = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
