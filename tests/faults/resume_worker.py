"""Runs on each rank of test_resume.py: one run with a checkpoint at every step, then one from each
of these checkpoints; all in one process, to start MXNet and Horovod only once. Prints a line for
each resumed run.

Arguments: FOLDER, then the flags of `python -m ssd train` except --output, --resume and those for
saving.
"""

import os
import sys
import types

import numpy as np

from ssd.__main__ import build_parser
from ssd.commandline import read_settings
from ssd.mlperf import MLPerfLog
from ssd.model import parameters
from ssd.rules import RULES
from ssd.training import setup
from ssd.training.ranks import Ranks
from ssd.training.signals import StopSignals
from ssd.training.train import Training

folder, flags = sys.argv[1], sys.argv[2:]
ranks = Ranks()
watch = types.SimpleNamespace(note=lambda *_, **__: None)


def run(name, *more):
    """One training; returns this rank's losses, final tensors, statistics and the scored
    evaluations."""
    args = build_parser(["train"]).parse_args(
        ["train", *flags, "--output", os.path.join(folder, name), *more]
    )
    config = read_settings(args)
    run_folder = setup.open_folder(config) if ranks.is_first else None
    losses, scores = {}, {}
    with StopSignals() as signals, MLPerfLog(
        run_folder.file("mlperf.log") if ranks.is_first else None,
        enabled=ranks.is_first,
        rules=RULES[config.run.rules],
    ) as log:
        log.submission("unnamed", "unnamed", "open", "onprem")
        log.init_start()
        training = Training(config, ranks, log, run_folder, signals, watch)
        original_step = training.train_step

        def train_step(epoch):
            gradients = training.state.step.gradients

            def recording(*arguments, **options):
                found = gradients(*arguments, **options)
                losses[training.state.progress.steps + 1] = np.concatenate(
                    [loss.asnumpy() for loss in found]
                )
                return found

            training.state.step.gradients = recording
            try:
                return original_step(epoch)
            finally:
                training.state.step.gradients = gradients

        training.train_step = train_step
        log_result = log.eval_result
        log.eval_result = lambda epoch, stats: (
            scores.update({epoch: stats}),
            log_result(epoch, stats),
        )
        training.run()
    arrays = {
        name: parameter.data().asnumpy()
        for name, parameter in parameters.by_structural_name(training.state.network).items()
    }
    for group, part in training.state.step.optimizer.arrays().items():
        arrays.update({f"{group} {name}": value for name, value in part.items()})
    return losses, arrays, scores


uninterrupted = run("uninterrupted", "--save-interval", "1steps", "--keep-checkpoints", "1000")
last = max(uninterrupted[0])
checkpoints = os.path.join(folder, "uninterrupted", "checkpoints")
for step in range(1, last + 1):
    source = os.path.join(checkpoints, f"step-{step:08d}")
    losses, arrays, scores = run(f"from-{step}", "--resume", source, "--save-interval", "never")
    assert sorted(losses) == list(range(step + 1, last + 1)), (step, sorted(losses))
    for number, values in losses.items():
        assert values.tobytes() == uninterrupted[0][number].tobytes(), (
            f"loss of step {number}, resumed after {step}"
        )
    for name, values in arrays.items():
        assert values.tobytes() == uninterrupted[1][name].tobytes(), f"{name}, resumed after {step}"
    for epoch, stats in scores.items():
        assert stats == uninterrupted[2][epoch], f"score of epoch {epoch}, resumed after {step}"
    print(
        f"rank {ranks.rank}: resumed after step {step} of {last}: {len(losses)} losses, "
        f"{len(arrays)} tensors, {len(scores)} scores equal",
        flush=True,
    )
assert (
    len(uninterrupted[2]) >= 2
    and len({values.tobytes() for values in uninterrupted[0].values()}) == last
)
ranks.close()
