"""What a run on so many GPUs will do, by arithmetic: nothing here needs MXNet, a GPU or the data
set.

Epochs to the target come from MLPerf's reference convergence points, which the pinned
mlperf-logging package holds; throughput is given, or that of a published result. Both are checked
against the published results of ssd.training.published: `check_published`.
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
from ssd.training.published import BENCHMARKS, Benchmark, Published, benchmark_of
from ssd.training.schedule import build_schedule
from ssd.training.setup import check_groups

# What an array of ssd.datasets.coco and ssd.data.samples costs a rank; docs/scaling.md compares
# with what was measured.
BYTES_PER_IMAGE = (
    8 + 16 + 77 + 9 + 16
)  # id, sizes, file name; ends and flag of SampleMaker; indices and order
BYTES_PER_BOX = 49 + 4  # of the data set; of SampleMaker
CACHE_SHUFFLE_BUFFER = 4096  # ssd.data.graphs, which imports DALI
# The share of a file that is read all the same where its image is cached, as DALI's reader opens
# it: docs/scaling.md.
CACHED_FILE_READ = 0.6


def convergence_points(rules: Rules) -> List[Tuple[int, float]]:
    """(global batch, epochs to the target) of MLPerf's reference runs for a rule set, ascending;
    epochs are the mean without the least and the most, as mlperf_logging/rcp_checker takes it.
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
            "MLPerf's convergence points are not there: scripts/setup.sh installs mlperf-logging"
        ) from None
    return sorted(
        (record["BS"], float(np.mean(sorted(record["Epochs to converge"])[1:-1])))
        for record in records
    )


def expected_epochs(
    benchmark: Benchmark, global_batch: int, rules: Optional[str] = None
) -> Tuple[float, str]:
    """(epochs to the target, where that comes from) by the convergence points of a rule set [the
    benchmark's last]; UserError where no convergence point or published result covers
    `global_batch`."""
    points = convergence_points(RULES[rules or benchmark.rules[-1]])
    smallest, largest = benchmark.smallest_batch, points[-1][0]
    if not smallest <= global_batch <= largest:
        raise UserError(
            f"global batch {global_batch}: the epochs to the target are known from {smallest} (the "
            f"least of the published results) to {largest} (MLPerf's last convergence point)"
        )
    batches, epochs = zip(*points)
    if global_batch in batches:
        source = f"MLPerf's convergence point at {global_batch}"
    elif global_batch < batches[0]:
        source = (
            f"MLPerf's smallest convergence point, {batches[0]}, to which its checker holds "
            f"smaller batches; {benchmark.small_batches}"
        )
    else:
        place = np.searchsorted(batches, global_batch)
        source = f"between MLPerf's convergence points at {batches[place - 1]} and {batches[place]}"
    return float(np.interp(global_batch, batches, epochs)), source


def _images(benchmark: Benchmark, epochs: float, evaluations: int) -> float:
    """What training and evaluations take, in images trained."""
    return (
        epochs * benchmark.train_images
        + evaluations * benchmark.val_images * benchmark.evaluation_cost
    )


def seconds_to_target(
    benchmark: Benchmark,
    epochs: float,
    evaluations: int,
    images_per_second: float,
    whole_epochs: bool = False,
) -> float:
    """Training, evaluations and the wait for the last score. whole_epochs: training then goes on to
    the end of the epoch, as some published implementations do; here it stops."""
    epoch = benchmark.train_images / images_per_second
    wait = benchmark.score_seconds
    if whole_epochs:
        wait = math.ceil(wait / epoch) * epoch
    return _images(benchmark, epochs, evaluations) / images_per_second + wait


def published_throughput(benchmark: Benchmark, ranks: int) -> Tuple[float, str]:
    """(images/s of `ranks` GPUs at the rate of a GPU of the published result of the nearest size,
    in words which)."""
    nearest = min(
        (result for result in benchmark.results if result.in_plans),
        key=lambda result: abs(math.log(result.ranks / ranks)),
    )
    rate, words = nearest.images_per_second, f"the published rate of a GPU of {nearest.name}"
    if rate is None:
        evaluations = math.ceil(nearest.epochs / benchmark.eval_every)
        rate = _images(benchmark, nearest.epochs, evaluations) / (
            nearest.minutes * 60 - benchmark.score_seconds
        )
        words = f"the rate of a GPU of {nearest.name}, from its {nearest.minutes:g} minutes"
    return rate / nearest.ranks * ranks, words


def check_published(benchmark: Benchmark) -> List[dict]:
    """For each published result: epochs and minutes, expected and published, and the errors [%].
    Minutes are expected from the result's own images/s, so that they check epochs and what comes
    besides training; else from the rate of its accelerator on one node (rate_of_its_own False);
    None where neither is known."""
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
                benchmark.trains_on,
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
    """Per cent."""
    return 100 * (expected / published - 1)


def gradient_bytes(benchmark: Benchmark, config: Config) -> int:
    """Bytes of all gradients of the benchmark's network, which a step averages."""
    own_type, whole = benchmark.parameters[config.model.layout, config.model.dtype]
    return own_type * (2 if config.model.dtype == "float16" else 4) + whole * 4


def check_recipe(config: Config) -> Benchmark:
    """The benchmark of the settings; UserError where the convergence points say nothing: no rule
    set, another network, matching, loss, detection or target."""
    benchmark = benchmark_of(config)
    if benchmark is None:
        known = " and ".join(known.rules_in_words for known in BENCHMARKS.values())
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
    """What a run of `config` on `nodes` times `gpus` will do, as numbers by name; bytes are bytes,
    rates per second.

    images_per_second: of the whole run; without it, a published result's. UserError: what no recipe
    covers.
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
    # Only the epochs in which the target can be seen count.
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
    """The published result of just such a system, of those that stand in plans."""
    return next(
        (
            result
            for result in benchmark.results
            if result.in_plans and (result.nodes, result.gpus, result.batch) == (nodes, gpus, batch)
        ),
        None,
    )


def host_memory(benchmark: Benchmark, config: Config, ranks: int) -> float:
    """Bytes that the data path of a rank with a GPU holds in main memory, without its libraries:
    arithmetic.

    Annotations, files read ahead and their copies in DALI, decoded images where the CPU decodes,
    DALI's shuffle buffer where decoded images are cached. docs/scaling.md has what was measured.
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
