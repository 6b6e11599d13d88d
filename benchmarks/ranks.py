"""Two ranks against one on the same cores, at equal global batch, alternating.

    python benchmarks/ranks.py [--recipe ssd-resnet34-shapes] [--batch-size 4] [--rounds 8] [--steps
                               5] [--ranks 2] [--batch-norm]

Prints the numbers of ranks.md. One rank has all cores as OpenMP threads and all of the batch;
several have their share of both, and average their gradients through Horovod (Gloo), as `horovodrun
python -m ssd train` does. Batches are synthetic and stay in memory. A step of several ranks takes
as long as the slowest of them. --batch-norm: a third side, the several ranks with BatchNorm over
all of their batches (--batch-norm-ranks).
"""

from __future__ import annotations

import argparse
import os
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from benchmarks import ours, turns  # noqa: E402


def work(args) -> None:
    """One rank, until the other side disconnects."""
    from ssd.threads import use_all_cores

    threads = use_all_cores()
    from ssd.training.ranks import Ranks

    ranks = Ranks(waiting_steps=args.batch_norm)
    import mxnet as mx

    batch_size = args.batch_size // ranks.size
    config = ours.recipe(
        args.recipe, batch_size=batch_size, batch_norm_ranks=ranks.size if args.batch_norm else 1
    )
    detector = ours.build(config)
    batch = ours.synthetic_batch(config, len(detector.default_boxes), args.batch_size)
    mine = slice(ranks.rank * batch_size, (ranks.rank + 1) * batch_size)
    batch = {name: values[mine] for name, values in batch.items()}
    step, one_step = ours.training(detector, config, batch, ranks)
    gradients = 4 * sum(parameter.data().size for parameter in step.parameters.values())

    def allreduce():
        step.optimizer.allreduce()
        mx.nd.waitall()

    facts = dict(threads=threads, batch_size=batch_size, gradients=gradients)
    turns.serve(
        args.serve,
        dict(
            train=lambda times: turns.timed(one_step, times),
            allreduce=lambda times: turns.timed(allreduce, times),
            memory=turns.peak_megabytes,
            facts=lambda: facts,
        ),
    )
    ranks.close()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="ssd-resnet34-shapes")
    parser.add_argument("--batch-size", type=int, default=4, help="of all ranks together")
    parser.add_argument("--ranks", type=int, default=2, help="from 2 on")
    parser.add_argument(
        "--batch-norm", action="store_true", help="measure BatchNorm over all ranks too"
    )
    turns.add_arguments(parser, rounds=8, steps=5, warmup=3)
    args = parser.parse_args()
    if args.serve:
        work(args)
        return
    if args.ranks < 2:
        parser.error(f"--ranks {args.ranks}: at least 2 are needed")
    if args.batch_size % args.ranks:
        parser.error(f"--batch-size {args.batch_size}: not a multiple of {args.ranks} ranks")
    turns.end_workers_with_us()
    print(turns.machine(), time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), sep="; ", flush=True)
    command = [
        sys.executable,
        os.path.abspath(__file__),
        "--recipe",
        args.recipe,
        "--batch-size",
        str(args.batch_size),
        "--serve",
    ]
    horovodrun = [
        os.path.join(os.path.dirname(sys.executable), "horovodrun"),
        "-np",
        str(args.ranks),
        "--gloo",
    ]
    counts, workers = (1, args.ranks, args.ranks), []
    try:
        workers.append(turns.Worker("1 rank", command))
        workers.append(
            turns.Worker(f"{args.ranks} ranks", [*horovodrun, *command], members=args.ranks)
        )
        if args.batch_norm:
            workers.append(
                turns.Worker(
                    "BatchNorm over all",
                    [*horovodrun, *command[:-1], "--batch-norm", command[-1]],
                    members=args.ranks,
                )
            )
        for worker in workers:
            worker.ask("train", times=args.warmup)
        seconds = turns.in_turns(workers, args.rounds, args.patience, ["train"], times=args.steps)[
            "train"
        ]
        print(
            f"{args.recipe}, global batch {args.batch_size}, {args.rounds} rounds of {args.steps} "
            "steps; median (least to most)"
        )
        for worker, count, values in zip(workers, counts, seconds):
            facts, memory = worker.ask("facts"), worker.ask("memory")
            facts = facts[0] if count > 1 else facts
            print(
                "  %-18s %d x batch %d, %d threads each: %s images/s; peak memory %s MB"
                % (
                    worker.name,
                    count,
                    facts["batch_size"],
                    facts["threads"],
                    turns.spread([args.batch_size / one for one in values]),
                    " + ".join(f"{one:.0f}" for one in (memory if count > 1 else [memory])),
                )
            )
        for first, second in zip(range(len(workers)), range(1, len(workers))):
            print(
                f"  {workers[second].name} / {workers[first].name}, round by round: "
                f"{turns.spread(turns.ratios(seconds[first], seconds[second]))}"
            )
        print(
            "  the allreduce alone, {:.1f} MB of gradients: {} ms".format(
                facts["gradients"] / 1e6,
                turns.spread(
                    [1000 * max(one) for one in zip(*workers[1].ask("allreduce", times=9))], "%.1f"
                ),
            )
        )
        print("  " + turns.others(workers), flush=True)
    finally:
        for worker in workers:
            worker.close()


if __name__ == "__main__":
    main()
