"""Checks and preparations before the timed part of a run."""

from __future__ import annotations

import os
import sys
import time
from typing import List, NamedTuple, Optional, Tuple

import numpy as np

from ssd.checkpoints.files import Checkpoint
from ssd.checkpoints.store import FOLDER, find_checkpoint
from ssd.config import Config, to_yaml
from ssd.datasets import locate
from ssd.datasets.locate import dataset_paths
from ssd.errors import UserError
from ssd.files import claim_folder, new_folder, remove_leftovers
from ssd.model_sections import PYRAMIDS
from ssd.training import versions


def check_files(config: Config) -> None:
    """Refuses missing files and folders, before anything is imported or written."""
    for split in ("train", "val"):
        dataset_paths(config, split)
    for flag in ("pretrained_backbone", "weights"):
        path = getattr(config.run, flag)
        if path and not os.path.isfile(path):
            raise UserError(f"--{flag.replace('_', '-')} {path}: no such file")
    for flag in ("submission_org", "submission_platform"):
        if not getattr(config.run, flag).strip():
            raise UserError(
                f"--{flag.replace('_', '-')} {getattr(config.run, flag)!r}: the MLPerf log needs a "
                "name"
            )
    if config.run.fine_tune and not config.run.weights:
        raise UserError("--fine-tune: needs --weights, the file to start from")


def check_groups(config: Config, ranks_size: int) -> None:
    """UserError unless the ranks form complete groups for BatchNorm."""
    group = config.training.batch_norm_ranks
    if ranks_size % group:
        raise UserError(
            f"--batch-norm-ranks {group}: {ranks_size} rank{'s' if ranks_size > 1 else ''} cannot "
            f"be divided into groups of {group}"
        )


class RunFolder(NamedTuple):
    """Where a run writes. A run that is resumed in its own folder has several parts there."""

    path: str
    part: int  # from 1
    checkpoint: Optional[Checkpoint]  # to resume from

    def file(self, name: str) -> str:
        """The path of a file of this part: mlperf.log in the first, mlperf-2.log in the second."""
        stem, extension = os.path.splitext(name)
        return os.path.join(self.path, name if self.part == 1 else f"{stem}-{self.part}{extension}")

    def discard(self) -> None:
        """Removes the files of a part that was refused before its start, so that its folder can be
        used again."""
        for name in ("mlperf.log", "recipe.yaml", "versions.json"):
            if os.path.exists(self.file(name)):
                os.remove(self.file(name))
        folder = os.path.join(self.path, FOLDER)
        if os.path.isdir(folder) and not os.listdir(folder):
            os.rmdir(folder)
        if not os.listdir(self.path):
            os.rmdir(self.path)


def open_folder(config: Config, report=print) -> RunFolder:
    """The run's folder, created if necessary, and the checkpoint of --resume. UserError if the
    folder holds another run."""
    resume, path = config.recovery.resume, config.run.output
    checkpoint = None
    if resume == "auto":
        if not path:
            raise UserError("--resume auto: needs --output, the folder of the run")
        folder = os.path.join(path, FOLDER)
        if os.path.isdir(folder) and any(name.startswith("step-") for name in os.listdir(folder)):
            checkpoint = find_checkpoint(path, report)
    elif resume:
        checkpoint = find_checkpoint(resume, report)
        own = os.path.dirname(os.path.dirname(os.path.abspath(checkpoint.path)))
        path = path or own
        if (
            os.path.realpath(path) == os.path.realpath(own)
            and find_checkpoint(own, report).step > checkpoint.step
        ):
            raise UserError(
                f"--resume {resume}: {own} has later checkpoints, which this would delete; name a "
                "new folder with --output"
            )
    try:
        path = path or new_folder(
            os.path.join("runs", config.recipe + time.strftime("-%Y%m%d-%H%M%S"))
        )
        if not claim_folder(path):
            raise UserError(f"--output {path}: another process writes there; name a new folder")
        held = os.listdir(path)
        # A run that was killed while it checked its data set has only left a log.
        if held and not (resume and ("recipe.yaml" in held or "mlperf.log" in held)):
            raise UserError(f"--output {path}: holds files already; name a new folder")
        remove_leftovers(path)
        probe = os.path.join(path, ".probe")
        with open(probe, "w"):
            pass
        os.remove(probe)
    except OSError as error:
        raise UserError(f"--output {path or error.filename}: {error.strerror}") from None
    part = 1
    while os.path.exists(RunFolder(path, part, None).file("mlperf.log")) or os.path.exists(
        RunFolder(path, part, None).file("recipe.yaml")
    ):
        part += 1
    return RunFolder(path, part, checkpoint)


def save_recipe(config: Config, folder: RunFolder, ranks_size: int) -> None:
    """Writes versions.json, and the settings of the run without its folder, which cannot be used
    again."""
    versions.save(folder.file("versions.json"), ranks_size)
    with open(folder.file("recipe.yaml"), "w", encoding="utf-8") as file:
        file.write(
            "# The settings of this run, flags included.\n"
            + to_yaml(config.with_values(output="", resume=""))
        )


def open_metrics(config: Config, folder: Optional[RunFolder], resumed):
    """The Metrics of a run. `folder`: None on ranks other than 0. `resumed`: the checkpoint's
    state, or None."""
    from ssd.training.metrics import Metrics

    if folder is None:
        return Metrics(None)
    events = None
    if config.run.tensorboard:
        from ssd.training.tensorboard import Events

        events = Events(
            folder.path, first_step=1 + (resumed["progress"]["steps"] if resumed else 0)
        )
    return Metrics(folder.path, events)


def software_and_settings(config: Config, device, ranks_size: int) -> str:
    """The first lines of the output: versions, ranks, device and all settings."""
    import horovod
    import mxnet
    import nvidia.dali

    from ssd.evaluation.scoring_backends import load_scorer

    lines = [
        f"MXNet {mxnet.__version__}, Horovod {horovod.__version__}, DALI "
        f"{nvidia.dali.__version__}, Python {sys.version.split()[0]}, scores by {load_scorer()}",
        f"{ranks_size} rank{'s' if ranks_size > 1 else ''} on {device.kind}, layout "
        f"{config.model.layout}, {config.model.dtype}, decoding on {config.data.decode}, "
        f"{os.environ.get('OMP_NUM_THREADS', 'no')} OpenMP threads per rank set",
    ]
    lines.append(to_yaml(config).rstrip())
    return "\n".join(lines)


def load_datasets(config: Config, ranks, poll) -> Tuple:
    """The training and validation set. Rank 0 checks them, then the others read its result; a
    refused data set ends every rank. `poll`: called every so often, equally often on all ranks."""

    def load():
        return locate.load_datasets(config)

    return ranks.first_then_others(load, "data set", poll)


def clear_cache(config: Config, ranks, log, print_line) -> None:
    """Drops the file cache of every node, which the data set's check may have filled, and logs what
    was dropped."""
    run = config.run
    if run.cache_cleared:
        log.cache_clear("by the launcher, on every node")
    if run.cache_cleared or not run.clear_cache:
        return
    from ssd.page_cache import drop_caches

    paths = [path for split in ("train", "val") for path in dataset_paths(config, split)]
    dropped = drop_caches(paths) if ranks.local_rank == 0 else "by another rank"
    if ranks.mean(np.array([bool(dropped)], float), "file cache dropped")[0] == 1:
        log.cache_clear(dropped)
    else:
        print_line("file cache: nothing could be dropped on some node, no cache_clear is logged")


def initialize_weights(
    network, config: Config, ranks, context, resumed: bool, names, print_line
) -> None:
    """Sets the initial weights, the same on all ranks; a resumed run gets its checkpoint's later.
    names: of the classes, without the background."""
    from ssd.model.initialization import initialize, load_backbone

    run = config.run
    initialize(network, run.seed, context)
    if resumed:
        for flag in ("pretrained_backbone", "weights"):
            if getattr(run, flag):
                print_line(
                    f"--{flag.replace('_', '-')} is not used: the weights are the checkpoint's"
                )
        return
    if run.pretrained_backbone:
        from ssd.model.backbones.onnx_file import read_backbone

        tensors = read_backbone(
            run.pretrained_backbone,
            config.model.backbone,
            print_line,
            pyramid=config.model.features in PYRAMIDS,
        )
        load_backbone(network, tensors, run.pretrained_backbone)
        print_line(f"backbone: {run.pretrained_backbone}")
    if run.weights:
        take_weights(network, run.weights, run.fine_tune, names, print_line)
    if not (run.pretrained_backbone or run.weights):
        print_line("backbone: random weights, as no --pretrained-backbone is given")
    ranks.broadcast_parameters(network.collect_params())


def take_weights(network, path: str, fine_tune: bool, names, print_line) -> None:
    """Sets the weights of an initialised network from a file; with fine_tune, those that fit.
    names: of the classes, without the background."""
    from ssd.model.fine_tuning import fits, load_matching
    from ssd.model.weights import load_weights, read_info

    if fine_tune:
        print_line(f"fine-tuning from {path}: {load_matching(network, path, names)}")
        return
    try:
        load_weights(network, path)
    except UserError as error:
        raise UserError(
            f"{error}" + ("; --fine-tune takes what fits" if fits(network, path, names) else "")
        ) from None
    info = read_info(path)
    other = info is not None and tuple(info.category_names) != tuple(names)
    print_line(
        f"weights: {path}"
        + (
            f"; their classes have other names ({', '.join(info.category_names)}) and are taken by "
            "number: --fine-tune would go by the names"
            if other
            else ""
        )
    )


def log_hyperparameters(
    log, config: Config, schedule, network, train_images: int, val_images: int, global_batch: int
) -> None:
    """Logs the settings that the log's rules require. train_images, val_images: their numbers."""
    training = config.training
    known = dict(
        train_samples=train_images,
        eval_samples=val_images,
        global_batch_size=global_batch,
        gradient_accumulation_steps=1,
        model_bn_span=training.batch_size * training.batch_norm_ranks,
        max_samples=config.augmentation.crop_attempts,
        opt_name=training.optimizer,
        opt_learning_rate_warmup_steps=schedule.warmup_steps,
        opt_learning_rate_warmup_epochs=training.warmup_epochs,
        opt_base_learning_rate=schedule.peak,
        opt_weight_decay=training.weight_decay,
        opt_learning_rate_warmup_factor=training.warmup_factor,
        opt_learning_rate_decay_boundary_epochs=list(schedule.decay_epochs),
    )
    required = log.rules.hyperparameters
    log.hyperparameters(
        **{key: value for key, value in known.items() if required is None or key in required}
    )
    log.weights_initialization(INITIALIZED[log.rules.weights_initialization](network))


def _trained(network) -> List[str]:
    return [
        name for name, parameter in network.collect_params().items() if parameter.grad_req != "null"
    ]


def _by_reference(network) -> List[str]:
    """The reference's names: PyTorch's data parallel wrapper adds the prefix "module."."""
    batch_norm = ("_gamma", "_beta", "_running_mean", "_running_var")
    return [
        "module." + name
        for name, parameter in network.reference_parameters().items()
        if not parameter.name.endswith(batch_norm)
    ]


# Names of the tensors that are logged as initialised, by Rules.weights_initialization.
INITIALIZED = {"network": _trained, "reference": _by_reference}
