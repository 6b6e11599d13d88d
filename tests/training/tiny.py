"""A network and a data set that train in a second."""

import csv
import os
import subprocess
import sys

from ssd.datasets.shapes import make_shapes

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FLAGS = [
    "--recipe",
    "ssd-resnet34-shapes",
    "--device",
    "cpu",
    "--width",
    "0.125",
    "--batch-size",
    "4",
    "--eval-batch-size",
    "4",
    "--data-threads",
    "1",
    "--log-interval",
    "1",
    "--seed",
    "3",
    "--no-report",
]


def tiny_data(folder, train_images=12, val_images=6):
    return str(
        make_shapes(
            folder,
            train_images=train_images,
            val_images=val_images,
            seed=5,
            size_range=(64, 100),
            report=lambda line: None,
        )
    )


def horovodrun(ranks):
    """The command line that starts a program on so many ranks; [] for one rank."""
    path = os.path.join(os.path.dirname(sys.executable), "horovodrun")
    return [path, "-np", str(ranks), "--gloo"] if ranks > 1 else []


def ssd(*arguments, env=None, prefix=(), timeout=300, module="ssd"):
    """Runs `python -m ssd ARGUMENTS` as a user does. module: runs this one instead of ssd."""
    environment = dict(os.environ, PYTHONPATH=ROOT, PYTHONWARNINGS="ignore", **(env or {}))
    return subprocess.run(
        [*prefix, sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def train(data, output, *flags, **options):
    """A training run in the folder `output`: a new one, or one that is resumed."""
    return ssd(
        "train",
        *FLAGS,
        "--data-dir",
        data,
        "--cache-dir",
        os.path.join(os.path.dirname(str(output)), "cache"),
        "--output",
        output,
        *flags,
        **options,
    )


def rows(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))
