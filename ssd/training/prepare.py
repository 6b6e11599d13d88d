"""Builds a RunState: everything that a run needs before its timed part, from a checkpoint if it
resumes."""

from __future__ import annotations

import json
import math
import os
from typing import Any, Callable, Dict, Optional

from ssd.config import Config
from ssd.errors import UserError
from ssd.training import recovery, setup
from ssd.training.state import Progress, RunState


def prepare(
    config: Config,
    ranks,
    log,
    folder: Optional[setup.RunFolder],
    note: Callable[[str, int], None],
    print_line: Callable[[str], None],
    poll: Callable[[], None],
) -> RunState:
    """Prepares everything that does not touch the data set, and checks the data set once (the
    result is cached). Collective.

    note: called at each stage, as a Watchdog's; poll: called every so often, equally often on all
    ranks. UserError if these settings cannot be trained.
    """
    from ssd.data.resolve import resolve
    from ssd.data.samples import steps_per_epoch
    from ssd.evaluation.inference import build_inference
    from ssd.model.detector import build_detector, describe_sizes
    from ssd.model.device import choose_device
    from ssd.model.weights_info import WeightsInfo
    from ssd.training.schedule import build_schedule
    from ssd.training.step import TrainingStep, dry_run

    setup.check_groups(config, ranks.size)
    device = choose_device(config, ranks.local_rank)
    note("checking the data set", 0)
    train_set, val_set = setup.load_datasets(config, ranks, poll)
    config = resolve(config, train_set)
    setup.clear_cache(config, ranks, log, print_line)
    global_batch, images = config.training.batch_size * ranks.size, len(train_set.images_with_boxes)
    if images < global_batch:
        raise UserError(
            f"--batch-size {config.training.batch_size}: {ranks.size} ranks take {global_batch} "
            f"images a step, {train_set.path} has {images} with a box"
        )
    schedule = build_schedule(config.training, global_batch, images)
    samples = recovery.fingerprint(train_set)
    resumed = _read_state(config, ranks, folder, samples, print_line)

    seed = config.run.seed if config.run.seed >= 0 else int.from_bytes(os.urandom(3), "little")
    seed = int(
        ranks.from_first(resumed["seed"] if resumed and config.run.seed < 0 else seed, "seed")
    )
    config = config.with_values(seed=seed)
    if ranks.is_first:
        setup.save_recipe(config, folder, ranks.size)
        print_line(setup.software_and_settings(config, device, ranks.size))
    detector = build_detector(config)
    network = detector.network
    if ranks.is_first:
        print_line(describe_sizes(config, detector.sizes))
    note("building the network", 0)
    setup.initialize_weights(
        network, config, ranks, device.context, bool(resumed), train_set.category_names, print_line
    )
    step = TrainingStep(network, detector.loss, config, ranks)
    if step.norm_groups:
        print_line(step.norm_groups)
    inference = build_inference(detector, device)
    dry_run(step, inference, network, config, len(detector.default_boxes), device.context)
    run = RunState(
        config=config,
        ranks=ranks,
        folder=folder,
        device=device,
        train_set=train_set,
        val_set=val_set,
        samples=samples,
        global_batch=global_batch,
        steps_per_epoch=steps_per_epoch(images, global_batch),
        schedule=schedule,
        seed=seed,
        network=network,
        info=WeightsInfo(config, train_set.category_ids, train_set.category_names),
        step=step,
        inference=inference,
        detector=detector,
        metrics=setup.open_metrics(config, folder, resumed),
    )
    if resumed:
        _resume(run, resumed, print_line)
    elif run.is_first and folder.part > 1:  # the part before ended before its first checkpoint
        run.metrics.set_aside(folder.part, 0, 0)
    return run


def _read_state(
    config: Config, ranks, folder, samples: str, print_line
) -> Optional[Dict[str, Any]]:
    """The state of the checkpoint to resume from, on every rank; None for a new run."""
    state = None
    if ranks.is_first and folder.checkpoint is not None:
        state = folder.checkpoint.state
        line = recovery.check(state, config, ranks.size, samples, folder.checkpoint.path)
        if line:
            print_line(line)
    return json.loads(ranks.bytes_from_first(json.dumps(state).encode(), "state"))


def _resume(run: RunState, resumed: Dict[str, Any], print_line) -> None:
    """Restores weights, the optimizer's state and progress from the checkpoint whose state is
    `resumed`."""
    checkpoint = run.folder.checkpoint if run.is_first else None
    recovery.restore(run, checkpoint.arrays if run.is_first else None, resumed)
    run.progress, run.unscored = Progress(**resumed["progress"]), resumed["pending"]
    if run.is_first:
        scored = (
            run.unscored["epoch"] - 1
            if run.unscored
            else math.ceil(run.progress.evaluated / run.steps_per_epoch)
        )
        run.metrics.set_aside(run.folder.part, run.progress.steps, scored)
        print_line(
            f"resumed after step {run.progress.steps} from {checkpoint.path}; part "
            f"{run.folder.part} of the run, logged in the open division"
        )
