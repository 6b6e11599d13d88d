"""`python -m ssd train` with a fault in it: FAULT=KIND:RANK:STEP in the environment, then the
command's flags.

Faults happen just before the step, except those of numbers, which change its gradients, loss or
weights.
"""

import functools
import os
import signal
import sys
import time

import numpy as np

from ssd.__main__ import main
from ssd.evaluation import inference
from ssd.evaluation.scoring_process import ScoringProcess
from ssd.training import setup
from ssd.training.optimizer import LossScale
from ssd.training.train import Training
from ssd.watchdog import watchdog

kind, rank, step = os.environ["FAULT"].split(":")
clean_step = Training.train_step


def hanging():
    """Data that never comes."""
    print(f"fault at {time.time():.3f}", file=sys.stderr, flush=True)
    time.sleep(1e6)


def at(training):
    return training.ranks.rank == int(rank) and training.state.progress.steps + 1 == int(step)


def strike():
    print(f"fault at {time.time():.3f}", file=sys.stderr, flush=True)
    if kind == "raise":
        raise ValueError("a fault in the program")
    if kind == "exit":
        sys.exit(0)
    if kind == "leave":
        os._exit(0)
    os.kill(
        os.getpid(),
        {
            "kill": signal.SIGKILL,
            "stop": signal.SIGSTOP,
            "term": signal.SIGTERM,
            "usr1": signal.SIGUSR1,
            "int": signal.SIGINT,
        }[kind],
    )


def poison(step, images):
    """Makes a number in this rank's next gradients not finite."""
    if kind == "nan-loss":
        images[1] = np.nan
    elif kind == "nan-weights":
        weight = step.parameters["predictors.2.conv.weight"]
        weight.set_data(weight.data() * np.inf)
    else:

        def backward(total):
            total.backward()
            step.parameters["backbone.conv1.weight"].list_grad()[0][0] = np.nan

        step.backward = backward


def train_step(training, epoch):
    struck = at(training)
    if kind == "nan-overflow" and not training.state.step.scale.window:
        training.state.step.optimizer.scale = LossScale(8, 2)
    if struck and kind == "hang":
        training.train_data = iter(hanging, None)
    if struck and kind in ("raise", "exit", "leave", "kill", "stop", "term", "usr1", "int"):
        strike()
    elif struck and kind.startswith("nan"):
        clean = training.state.step.gradients

        def gradients(images, offsets, *rest, **options):
            poison(training.state.step, offsets)
            return clean(images, offsets, *rest, **options)

        training.state.step.gradients = gradients
    try:
        return clean_step(training, epoch)
    finally:
        if struck:
            for name in ("gradients", "backward"):
                vars(training.state.step).pop(name, None)


def detect(*arguments, **options):
    if kind == "term-in-evaluation" and int(rank) == int(os.environ.get("HOROVOD_RANK", 0)):
        os.kill(os.getpid(), signal.SIGTERM)
    return clean_detect(*arguments, **options)


def start_scorer(scoring, *arguments, **options):
    """Kills the scorers of the first `step` scorings as soon as they have started."""
    clean_start(scoring, *arguments, **options)
    struck.append(scoring)
    if kind == "kill-scorer" and len(struck) <= int(step):
        os.kill(scoring.pid, signal.SIGKILL)


def load_datasets(*arguments):
    if kind == "term-at-start":
        os.kill(os.getpid(), signal.SIGTERM)
    return clean_load(*arguments)


struck = []
if kind == "hang":  # to be noticed before ten times --rank-timeout
    watchdog.Watchdog = functools.partial(watchdog.Watchdog, stall=15)
clean_load, setup.load_datasets = setup.load_datasets, load_datasets
clean_start, ScoringProcess.start = ScoringProcess.start, start_scorer
clean_detect, inference.detect = inference.detect, detect
Training.train_step = train_step
sys.exit(main(["train", *sys.argv[1:]]))
