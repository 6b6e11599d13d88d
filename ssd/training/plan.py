"""What a run on so many GPUs will do, by arithmetic: nothing here needs MXNet, a GPU or the data set.

Epochs to the target come from MLPerf's reference convergence points, which the pinned mlperf-logging package holds;
throughput is given, or that of a published result. Both are checked against the published results: `check_published`.
"""
from __future__ import annotations

import importlib.util
import json
import math
import os
from dataclasses import dataclass
from typing import List, Optional, Tuple

import numpy as np

from ssd.config import Config, differences, load_recipe
from ssd.data.samples import steps_per_epoch
from ssd.errors import UserError
from ssd.rules import RULES, Rules
from ssd.training.schedule import build_schedule

TRAIN_IMAGES = 117266    # COCO 2017, with a box
TRAIN_FILES = 118287     # all of them
TRAIN_BOXES = 860001
VAL_IMAGES = 5000
VAL_BOXES = 36781
FILE_BYTES = 19336861798 / TRAIN_FILES    # a mean image file: train2017.zip, in which JPEGs do not shrink
DECODED_BYTES = 640 * 480 * 3             # of a typical image: 108 GB in all

# What an array of ssd.datasets.coco and ssd.data.samples costs a rank; docs/scaling.md compares with what was measured.
BYTES_PER_IMAGE = 8 + 16 + 77 + 9 + 16    # id, sizes, file name; ends and flag of SampleMaker; indices and order
BYTES_PER_BOX = 49 + 36                   # of the data set; of SampleMaker
CACHE_SHUFFLE_BUFFER = 4096               # ssd.data.graphs, which imports DALI

# (weights and biases of convolutions, scales and shifts of BatchNorm) of the full network with 81 classes, by layout
# and type: NHWC pads the heads, and with float16 the input. tests/training/test_plan.py counts the network's.
PARAMETERS = {("NCHW", "float32"): (19962678, 9856), ("NCHW", "float16"): (19962678, 9856),
              ("NHWC", "float32"): (20013384, 9856), ("NHWC", "float16"): (20016520, 9856)}

# From a log of the Fujitsu submission below (epoch 20 of result_0): 5,000 images evaluated in 1.81 s where training
# makes 4,833 images/s, and their score known 1.17 s later, while training goes on.
EVALUATION_COST = 1.75    # of an image evaluated, in images trained
SCORE_SECONDS = 1.2


@dataclass(frozen=True)
class Published:
    """A result of MLPerf Training v1.1 (github.com/mlcommons/training_results_v1.1), means of the middle three of five
    runs: minutes from run_start to run_stop, and the epoch whose evaluation reached the target. Training went on to the
    end of the epoch in which that was known, so that the logs have 1 to 4 epochs more."""
    name: str
    config: str
    nodes: int
    gpus: int
    batch: int
    minutes: float
    epochs: float
    images_per_second: float

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus

    @property
    def global_batch(self) -> int:
        return self.ranks * self.batch


PUBLISHED_RULES = RULES["ssd-1.1.0"]    # of these results and of every number of this file
PUBLISHED = (
    Published("Fujitsu PRIMERGY GX2460 M1, 4 x A100", "config_PG.sh", 1, 4, 114, 20.92, 50, 4833),
    Published("NVIDIA DGX A100, 1 node", "config_DGXA100_001x08x114.sh", 1, 8, 114, 8.26, 50, 12231),
    Published("NVIDIA DGX A100, 8 nodes", "config_DGXA100_008x08x024.sh", 8, 8, 24, 1.52, 170 / 3, 76351),
    Published("NVIDIA DGX A100, 128 nodes", "config_DGXA100_128x08x003.sh", 128, 8, 3, 0.454, 75, 394195),
)
# Fewer images than these were normalised together by none of them: the last two joined GPUs in groups.
SMALLEST_BATCH_NORM = 114


def convergence_points(rules: Rules) -> List[Tuple[int, float]]:
    """(global batch, epochs to the target) of MLPerf's reference runs for a rule set, ascending; epochs are the mean
    without the least and the most, as mlperf_logging/rcp_checker takes it. UserError without the package."""
    package = importlib.util.find_spec("mlperf_logging")
    folder = package.submodule_search_locations[0] if package else ""
    path = os.path.join(folder, "rcp_checker", f"training_{rules.ruleset}", f"rcps_{rules.benchmark}.json")
    try:
        with open(path, encoding="utf-8") as file:
            records = json.load(file).values()
    except OSError:
        raise UserError("MLPerf's convergence points are not there: scripts/setup.sh installs mlperf-logging") from None
    return sorted((record["BS"], float(np.mean(sorted(record["Epochs to converge"])[1:-1]))) for record in records)


def expected_epochs(global_batch: int) -> Tuple[float, str]:
    """(epochs to the target, where that comes from); UserError where no convergence point or published result covers
    `global_batch`."""
    points = convergence_points(PUBLISHED_RULES)
    smallest, largest = min(result.global_batch for result in PUBLISHED), points[-1][0]
    if not smallest <= global_batch <= largest:
        raise UserError(f"global batch {global_batch}: the epochs to the target are known from {smallest} (the least "
                        f"of the published results) to {largest} (MLPerf's last convergence point)")
    batches, epochs = zip(*points)
    if global_batch in batches:
        source = f"MLPerf's convergence point at {global_batch}"
    elif global_batch < batches[0]:
        source = (f"MLPerf's smallest convergence point, {batches[0]}, to which its checker holds smaller batches; "
                  f"published results from {smallest} on agree")
    else:
        place = np.searchsorted(batches, global_batch)
        source = f"between MLPerf's convergence points at {batches[place - 1]} and {batches[place]}"
    return float(np.interp(global_batch, batches, epochs)), source


def seconds_to_target(epochs: float, evaluations: int, images_per_second: float, whole_epochs: bool = False) -> float:
    """Training, evaluations and the wait for the last score. whole_epochs: training then goes on to the end of the
    epoch, as the published implementations do; here it stops."""
    epoch = TRAIN_IMAGES / images_per_second
    wait = math.ceil(SCORE_SECONDS / epoch) * epoch if whole_epochs else SCORE_SECONDS
    return epochs * epoch + evaluations * VAL_IMAGES * EVALUATION_COST / images_per_second + wait


def published_throughput(ranks: int) -> Tuple[float, Published]:
    """(images/s of `ranks` GPUs at the rate of a GPU of a published result, that result: of the nearest size)."""
    nearest = min(PUBLISHED, key=lambda result: abs(math.log(result.ranks / ranks)))
    return nearest.images_per_second / nearest.ranks * ranks, nearest


def check_published() -> List[dict]:
    """For each published result: epochs and minutes, expected and published, and the errors [%]. Minutes are expected
    from the published images/s, so that they check epochs and what comes besides training."""
    rows = []
    for result in PUBLISHED:
        epochs, source = expected_epochs(result.global_batch)
        minutes = seconds_to_target(epochs, math.ceil(epochs / 5), result.images_per_second, whole_epochs=True) / 60
        rows.append(dict(
            system=result.name, global_batch=result.global_batch, images_per_second=result.images_per_second,
            expected_epochs=epochs, published_epochs=result.epochs, epochs_error=error(epochs, result.epochs),
            expected_minutes=minutes, published_minutes=result.minutes,
            minutes_error=error(minutes, result.minutes), source=source))
    return rows


def error(expected: float, published: float) -> float:
    """Per cent."""
    return 100 * (expected / published - 1)


def gradient_bytes(config: Config) -> int:
    """Bytes of all gradients of the full network, which a step averages. BatchNorm's are float32 always."""
    convolutions, batch_norm = PARAMETERS[config.model.layout, config.model.dtype]
    return convolutions * (2 if config.model.dtype == "float16" else 4) + batch_norm * 4


def check_recipe(config: Config) -> None:
    """UserError where the convergence points say nothing: another rule set, network, matching, loss, detection
    or target."""
    if RULES[config.run.rules] != PUBLISHED_RULES:
        raise UserError(f"run.rules {config.run.rules}: the published results are for the rules ssd-1.1.0 (recipe "
                        f"{config.recipe})")
    sections = ("model", "default_boxes", "loss", "detection", "evaluation")
    for name, wanted, given in differences(config, load_recipe("ssd-resnet34-coco"), sections):
        if name.split(".")[-1] not in ("layout", "dtype", "eval_batch_size", "eval_every"):
            raise UserError(f"{name} {given}: MLPerf's convergence points are for {wanted} (recipe {config.recipe})")


def make_plan(config: Config, nodes: int, gpus: int, images_per_second: Optional[float] = None) -> dict:
    """What a run of `config` on `nodes` times `gpus` will do, as numbers by name; bytes are bytes, rates per second.

    images_per_second: of the whole run; without it, a published result's. UserError: what no recipe covers.
    """
    training, data = config.training, config.data
    for flag, number in (("--nodes", nodes), ("--gpus", gpus)):
        if number < 1:
            raise UserError(f"{flag} {number}: must be at least 1")
    if images_per_second is not None and not 0 < images_per_second < math.inf:
        raise UserError(f"--images-per-second {images_per_second}: must be above 0")
    check_recipe(config)
    ranks = nodes * gpus
    global_batch = ranks * training.batch_size
    if global_batch > TRAIN_IMAGES:
        raise UserError(f"--batch {training.batch_size}: {ranks} GPUs take {global_batch} images a step, COCO has "
                        f"{TRAIN_IMAGES} with a box")
    epochs, epochs_source = expected_epochs(global_batch)
    # Only the epochs in which the target can be seen count.
    every = config.evaluation.eval_every
    if math.floor(training.epochs / every) * every < epochs:
        raise UserError(f"--epochs {training.epochs}: at global batch {global_batch} the target is expected after "
                        f"{epochs:.1f} epochs")
    evaluations = math.ceil(epochs / every)
    throughput, result = published_throughput(ranks)
    source = f"the published rate of a GPU of {result.name}"
    if images_per_second is not None:
        throughput, source = images_per_second, "--images-per-second"

    steps = steps_per_epoch(TRAIN_IMAGES, global_batch)
    schedule = build_schedule(training, global_batch, TRAIN_IMAGES)
    gradients = gradient_bytes(config)
    cached = 0.0
    if data.decode == "cache":
        cached = min(1.0, data.cache_size * 2 ** 20 * ranks / (TRAIN_IMAGES * DECODED_BYTES))
    sent = 2 * (ranks - 1) / ranks * gradients
    own = [published for published in PUBLISHED
           if (published.nodes, published.gpus, published.batch) == (nodes, gpus, training.batch_size)]
    minutes = seconds_to_target(epochs, evaluations, throughput) / 60
    return dict(
        recipe=config.recipe, nodes=nodes, gpus_per_node=gpus, batch_size=training.batch_size,
        global_batch=global_batch,
        peak_learning_rate=schedule.peak, base_learning_rate=training.base_lr, weight_decay=training.weight_decay,
        warmup_epochs=training.warmup_epochs, warmup_steps=schedule.warmup_steps,
        decay_epochs=list(schedule.decay_epochs), decay_steps=[steps * epoch for epoch in schedule.decay_epochs],
        steps_per_epoch=steps, max_epochs=training.epochs,
        expected_epochs=epochs, expected_epochs_source=epochs_source, expected_steps=round(steps * epochs),
        evaluations=evaluations,
        images_per_second=throughput, images_per_second_source=source, expected_minutes=minutes,
        published_minutes=own[0].minutes if own else None,
        gradient_bytes=gradients, allreduce_bytes_per_gpu_and_step=sent,
        allreduce_bytes_per_gpu_and_second=sent * throughput / global_batch,
        file_bytes_per_image=FILE_BYTES, read_bytes_per_second=FILE_BYTES * throughput,
        read_bytes_per_node_and_second=FILE_BYTES * throughput / nodes, cached_share=cached, decode=data.decode,
        host_memory_per_rank=host_memory(config, ranks), host_memory_per_node=host_memory(config, ranks) * gpus)


def host_memory(config: Config, ranks: int) -> float:
    """Bytes that the data path of a rank with a GPU holds in main memory, without its libraries: arithmetic.

    Annotations, files read ahead and their copies in DALI, decoded images where the CPU decodes, DALI's shuffle buffer
    where decoded images are cached. docs/scaling.md has what was measured.
    """
    annotations = (TRAIN_FILES + VAL_IMAGES) * BYTES_PER_IMAGE + (TRAIN_BOXES + VAL_BOXES) * BYTES_PER_BOX
    per_image = 2 * FILE_BYTES + (DECODED_BYTES if config.data.decode == "cpu" else 0)
    ahead = config.data.prefetch * config.training.batch_size * per_image
    shuffled = min(CACHE_SHUFFLE_BUFFER, TRAIN_IMAGES // ranks) if config.data.decode == "cache" else 0
    return annotations + ahead + shuffled * FILE_BYTES
