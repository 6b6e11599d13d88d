"""What is checked and built before a run's clock starts."""
from __future__ import annotations

import os
import sys
import time

from ssd.config import Config, to_yaml
from ssd.data.locate import dataset_paths
from ssd.errors import UserError


def check_files(config: Config) -> None:
    """Refuses files and folders that are not there, before anything is imported or written."""
    for split in ("train", "val"):
        dataset_paths(config, split)
    for flag in ("pretrained_backbone", "weights"):
        path = getattr(config.run, flag)
        if path and not os.path.isfile(path):
            raise UserError(f"--{flag.replace('_', '-')} {path}: no such file")


def make_output(config: Config) -> str:
    """The run's folder, made and empty; UserError if it holds something."""
    path = config.run.output or os.path.join("runs", time.strftime(f"{config.recipe}-%Y%m%d-%H%M%S"))
    try:
        os.makedirs(path, exist_ok=True)
        if os.listdir(path):
            raise UserError(f"--output {path}: holds files already; name a new folder")
        probe = os.path.join(path, ".probe")
        with open(probe, "w"):
            pass
        os.remove(probe)
    except OSError as error:
        raise UserError(f"--output {path}: {error.strerror}") from None
    return path


def discard_output(path: str) -> None:
    """Removes what a run that was refused before its start has written, so that its folder can be named again."""
    for name in ("mlperf.log", "recipe.yaml"):
        if os.path.exists(os.path.join(path, name)):
            os.remove(os.path.join(path, name))
    if not os.listdir(path):
        os.rmdir(path)


def save_recipe(config: Config, path: str) -> None:
    """Writes the settings as run, but for the run's folder, which cannot be used again."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("# The settings of this run, flags included.\n" + to_yaml(config.with_values(output="")))


def describe(config: Config, device, ranks_size: int) -> str:
    """What runs, for the start of the output: versions, device, and where the settings leave their recipe."""
    import horovod
    import mxnet
    import nvidia.dali
    lines = [f"MXNet {mxnet.__version__}, Horovod {horovod.__version__}, DALI {nvidia.dali.__version__}, "
             f"Python {sys.version.split()[0]}",
             f"{ranks_size} rank{'s' if ranks_size > 1 else ''} on {device.kind}, layout {config.model.layout}, "
             f"{config.model.dtype}, decoding on {config.data.decode}, "
             f"{os.environ.get('OMP_NUM_THREADS', 'no')} OpenMP threads per rank set"]
    lines.append(to_yaml(config).rstrip())
    return "\n".join(lines)

