"""Predicts a run on a given number of GPUs, by arithmetic: nothing here needs MXNet, a GPU or the
data set.

Epochs to the target come from MLPerf's reference convergence points, which are in the pinned
mlperf-logging package. Throughput is given, or comes from a published result. `check_published`
compares both with the published results in ssd.training.mlperf_results.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
from typing import List, Optional, Tuple

import numpy as np

from ssd.config import Config, differences, load_recipe
from ssd.data.samples import steps_per_epoch
from ssd.errors import UserError
from ssd.rules import RULES, Rules
from ssd.training.mlperf_results import BENCHMARKS, Benchmark, Published, benchmark_of
from ssd.training.schedule import build_schedule
from ssd.training.setup import check_groups

# Memory of a rank for the arrays of ssd.datasets.coco and ssd.data.samples; docs/scaling.md
# compares it with measurements.
# Id, sizes, file name; ends and flag of SampleMaker; indices and order.
BYTES_PER_IMAGE = 8 + 16 + 77 + 9 + 16
BYTES_PER_BOX = 49 + 4  # of the data set; of SampleMaker
CACHE_SHUFFLE_BUFFER = 4096  # as in ssd.data.graphs, which imports DALI
# The share of a file that DALI's reader still reads if the image is cached: docs/scaling.md.
CACHED_FILE_READ = 0.6


def convergence_points(rules: Rules) -> List[Tuple[int, float]]:
    """(global batch, epochs to the target) of MLPerf's reference runs for a rule set, ascending.
    Epochs are the mean without the smallest and the largest, as in mlperf_logging/rcp_checker.
    UserError without the package."""
    package = importlib.util.find_spec("mlperf_logging")
    folder = package.submodule_search_locations[0] if package else ""
    path = os.path.join(
        folder, "rcp_checker", f"training_{rules.ruleset}", f"rcps_{rules.benchmark}.json"
    )
    try:
        with open(path, encoding="utf-8") as file:
            records = json.load(file).values()
    except OSError:
        raise UserError(
            "MLPerf's convergence points are missing: scripts/setup.sh installs mlperf-logging"
        ) from None
    return sorted(
        (record["BS"], float(np.mean(sorted(record["Epochs to converge"])[1:-1])))
        for record in records
    )


def expected_epochs(
    benchmark: Benchmark, global_batch: int, rules: Optional[str] = None
) -> Tuple[float, str]:
    """(epochs to the target, source) from the convergence points of a rule set (default: the
    benchmark's last). UserError if no convergence point or published result covers
    `global_batch`."""
    points = convergence_points(RULES[rules or benchmark.rules[-1]])
    smallest, largest = benchmark.smallest_batch, points[-1][0]
    if not smallest <= global_batch <= largest:
        raise UserError(
            f"global batch {global_batch}: the epochs to the target are known from {smallest} (the "
            f"smallest published result) to {largest} (MLPerf's last convergence point)"
        )
    batches, epochs = zip(*points)
    if global_batch in batches:
        source = f"MLPerf's convergence point at {global_batch}"
    elif global_batch < batches[0]:
        source = (
            f"MLPerf's smallest convergence point, {batches[0]}, which its checker applies to "
            f"smaller batches; {benchmark.small_batches}"
        )
    else:
        index = np.searchsorted(batches, global_batch)
        source = f"between MLPerf's convergence points at {batches[index - 1]} and {batches[index]}"
    return float(np.interp(global_batch, batches, epochs)), source


def _images(benchmark: Benchmark, epochs: float, evaluations: int) -> float:
    """The cost of training and evaluations, in images trained."""
    return (
        epochs * benchmark.train_images
        + evaluations * benchmark.val_images * benchmark.evaluation_cost
    )


def seconds_to_target(
    benchmark: Benchmark,
    epochs: float,
    evaluations: int,
    images_per_second: float,
    full_epochs: bool = False,
) -> float:
    """The time of training, evaluations and the wait for the last score. full_epochs: training then
    continues to the end of the epoch, as in some published implementations; ours stops."""
    epoch = benchmark.train_images / images_per_second
    wait = benchmark.score_seconds
    if full_epochs:
        wait = math.ceil(wait / epoch) * epoch
    return _images(benchmark, epochs, evaluations) / images_per_second + wait


def published_throughput(benchmark: Benchmark, ranks: int) -> Tuple[float, str]:
    """(images/s of `ranks` GPUs, source), from the rate per GPU of the published result of the
    nearest size."""
    nearest = min(
        (result for result in benchmark.results if result.in_plans),
        key=lambda result: abs(math.log(result.ranks / ranks)),
    )
    rate, source = nearest.images_per_second, f"the published rate per GPU of {nearest.name}"
    if rate is None:
        evaluations = math.ceil(nearest.epochs / benchmark.eval_every)
        rate = _images(benchmark, nearest.epochs, evaluations) / (
            nearest.minutes * 60 - benchmark.score_seconds
        )
        source = f"the rate per GPU of {nearest.name}, from its {nearest.minutes:g} minutes"
    return rate / nearest.ranks * ranks, source


def check_published(benchmark: Benchmark) -> List[dict]:
    """For each published result: epochs and minutes, expected and published, and the errors [%].
    Minutes are computed from the result's own images/s, so that they check everything but
    throughput; else from the rate of its accelerator on one node (rate_of_its_own False); None if
    neither is known."""
    rows = []
    for result in benchmark.results:
        epochs, source = expected_epochs(benchmark, result.global_batch)
        rate = (
            result.images_per_second
            or (benchmark.rates or {}).get(result.accelerator, 0) * result.ranks
        )
        minutes = (
            seconds_to_target(
                benchmark,
                epochs,
                math.ceil(epochs / benchmark.eval_every),
                rate,
                benchmark.trains_to_epoch_end,
            )
            / 60
            if rate
            else None
        )
        rows.append(
            dict(
                system=result.name,
                global_batch=result.global_batch,
                images_per_second=rate or None,
                rate_of_its_own=bool(result.images_per_second),
                expected_epochs=epochs,
                published_epochs=result.epochs,
                epochs_error=error(epochs, result.epochs),
                expected_minutes=minutes,
                published_minutes=result.minutes,
                minutes_error=error(minutes, result.minutes) if minutes else None,
                source=source,
            )
        )
    return rows


def error(expected: float, published: float) -> float:
    """The error of an expected number [%]."""
    return 100 * (expected / published - 1)


def gradient_bytes(benchmark: Benchmark, config: Config) -> int:
    """Bytes of all gradients of the benchmark's network, which a step averages."""
    model_type, float32 = benchmark.parameters[config.model.layout, config.model.dtype]
    return model_type * (2 if config.model.dtype == "float16" else 4) + float32 * 4


def check_recipe(config: Config) -> Benchmark:
    """The benchmark of the settings. UserError if its convergence points do not apply: no rule set,
    or another network, matching, loss, detection or target."""
    benchmark = benchmark_of(config)
    if benchmark is None:
        known = " and ".join(known.rules_text for known in BENCHMARKS.values())
        raise UserError(
            f"run.rules {config.run.rules}: the published results are for the rules {known} "
            f"(recipe {config.recipe})"
        )
    sections = ("model", "default_boxes", "loss", "detection", "evaluation")
    for name, wanted, given in differences(config, load_recipe(benchmark.recipe), sections):
        if name.split(".")[-1] not in ("layout", "dtype", "eval_batch_size", "eval_every"):
            raise UserError(
                f"{name} {given}: MLPerf's convergence points are for {wanted} (recipe "
                f"{config.recipe})"
            )
    return benchmark


def make_plan(
    config: Config, nodes: int, gpus: int, images_per_second: Optional[float] = None
) -> dict:
    """The predictions for a run of `config` on `nodes` times `gpus`, numbers by name. Sizes are in
    bytes, rates per second.

    images_per_second: of all GPUs together; default: from a published result. UserError for
    anything that no recipe covers.
    """
    training, data = config.training, config.data
    for flag, number in (("--nodes", nodes), ("--gpus", gpus)):
        if number < 1:
            raise UserError(f"{flag} {number}: must be at least 1")
    if images_per_second is not None and not 0 < images_per_second < math.inf:
        raise UserError(f"--images-per-second {images_per_second}: must be above 0")
    benchmark = check_recipe(config)
    ranks, images = nodes * gpus, benchmark.train_images
    check_groups(config, ranks)
    global_batch = ranks * training.batch_size
    if global_batch > images:
        raise UserError(
            f"--batch {training.batch_size}: {ranks} GPUs take {global_batch} images a step, "
            f"{benchmark.data_set} has {images} with a box"
        )
    epochs, epochs_source = expected_epochs(benchmark, global_batch, config.run.rules)
    # Only epochs with an evaluation can reach the target.
    every = config.evaluation.eval_every
    if math.floor(training.epochs / every) * every < epochs:
        raise UserError(
            f"--epochs {training.epochs}: at global batch {global_batch} the target is expected "
            f"after {epochs:.1f} epochs"
        )
    evaluations = math.ceil(epochs / every)
    throughput, source = published_throughput(benchmark, ranks)
    if images_per_second is not None:
        throughput, source = images_per_second, "--images-per-second"

    steps = steps_per_epoch(images, global_batch)
    schedule = build_schedule(training, global_batch, images)
    gradients, file_bytes = gradient_bytes(benchmark, config), benchmark.file_bytes
    cached = 0.0
    if data.decode == "cache":
        cached = min(1.0, data.cache_size * 2**20 * ranks / (images * benchmark.decoded_bytes))
    sent = 2 * (ranks - 1) / ranks * gradients
    memory = host_memory(benchmark, config, ranks)
    own = own_result(benchmark, nodes, gpus, training.batch_size)
    minutes = seconds_to_target(benchmark, epochs, evaluations, throughput) / 60
    return dict(
        recipe=config.recipe,
        nodes=nodes,
        gpus_per_node=gpus,
        batch_size=training.batch_size,
        global_batch=global_batch,
        batch_norm_span=training.batch_size * training.batch_norm_ranks,
        peak_learning_rate=schedule.peak,
        base_learning_rate=training.base_lr,
        learning_rate_is_scaled=bool(training.lr_batch),
        weight_decay=training.weight_decay,
        warmup_epochs=training.warmup_epochs,
        warmup_steps=schedule.warmup_steps,
        decay_epochs=list(schedule.decay_epochs),
        decay_steps=[steps * epoch for epoch in schedule.decay_epochs],
        steps_per_epoch=steps,
        max_epochs=training.epochs,
        expected_epochs=epochs,
        expected_epochs_source=epochs_source,
        expected_steps=round(steps * epochs),
        evaluations=evaluations,
        images_per_second=throughput,
        images_per_second_source=source,
        expected_minutes=minutes,
        published_minutes=own.minutes if own else None,
        gradient_bytes=gradients,
        allreduce_bytes_per_gpu_and_step=sent,
        allreduce_bytes_per_gpu_and_second=sent * throughput / global_batch,
        storage_bytes=benchmark.storage_bytes,
        file_bytes_per_image=file_bytes,
        read_bytes_per_second=file_bytes * throughput,
        read_bytes_per_node_and_second=file_bytes * throughput / nodes,
        cached_share=cached,
        read_share_after_first_epoch=1 - cached * (1 - CACHED_FILE_READ),
        decode=data.decode,
        host_memory_per_rank=memory,
        host_memory_per_node=memory * gpus,
    )


def own_result(benchmark: Benchmark, nodes: int, gpus: int, batch: int) -> Optional[Published]:
    """The published result of exactly this system, if it may be used in plans."""
    return next(
        (
            result
            for result in benchmark.results
            if result.in_plans and (result.nodes, result.gpus, result.batch) == (nodes, gpus, batch)
        ),
        None,
    )


def host_memory(benchmark: Benchmark, config: Config, ranks: int) -> float:
    """Bytes of main memory that the data path of a rank with a GPU needs, without libraries, by
    arithmetic.

    Counts annotations, files read ahead and their copies in DALI, decoded images if the CPU
    decodes, and DALI's shuffle buffer if decoded images are cached. docs/scaling.md has
    measurements.
    """
    annotations = (benchmark.train_files + benchmark.val_images) * BYTES_PER_IMAGE + (
        benchmark.train_boxes + benchmark.val_boxes
    ) * BYTES_PER_BOX
    per_image = 2 * benchmark.file_bytes + (
        benchmark.decoded_bytes if config.data.decode == "cpu" else 0
    )
    ahead = config.data.prefetch * config.training.batch_size * per_image
    shuffled = (
        min(CACHE_SHUFFLE_BUFFER, benchmark.train_images // ranks)
        if config.data.decode == "cache"
        else 0
    )
    return annotations + ahead + shuffled * benchmark.file_bytes
