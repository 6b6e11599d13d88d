"""The content of a run's checkpoint, and how it is restored.

Arrays, by the structural names of the network's tensors: `parameters` (trained and frozen ones,
running statistics averaged over the ranks, and `metadata`, so that the file can be used as
weights), the groups of the optimizer (`momenta`, or `means` and `variances`; `masters`, float32
copies of float16 weights), `ranks` (a row for each rank: running statistics, losses not yet
reported) and `pending` (detections whose score is not known yet). Everything else is in the state,
as JSON. The order of the images and their augmentation need no state: they are a function of seed,
epoch and step (ssd.data.samples).
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, replace
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from ssd.config import Config, as_dict, builtin_recipes, completed, load_recipe
from ssd.errors import UserError
from ssd.model.weights_info import METADATA, pack_info
from ssd.training.outcome import NotFinite
from ssd.training.state import RunState

# Settings that may differ from the checkpoint's: they do not change the result.
FREE = {
    "data.data_dir",
    "data.cache_dir",
    "data.data_threads",
    "data.prefetch",
    "data.check_images",
    "data.cache_size",
}
FREE_SECTIONS = {"run", "recovery"}
COMPARED = {"run.seed", "run.device"}


def finite_interval(config: Config, device_kind: str) -> int:
    """Steps between checks of loss and gradients. A check waits for its step's gradients: a CPU
    computes on, but a GPU idles until it gets the next step."""
    return config.recovery.check_finite_every or (
        1 if device_kind == "cpu" else config.run.log_interval
    )


def fingerprint(dataset) -> str:
    """A hash of the images and boxes that a run trains on."""
    digest = hashlib.sha256("\n".join(dataset.file_names).encode())
    for array in (dataset.sizes, dataset.box_image, dataset.boxes_ltrb, dataset.box_classes):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def changes(saved: Dict[str, Dict[str, Any]], config: Config) -> List[str]:
    """A text like 'name: 1 in the checkpoint, 2 now' for each setting that differs and changes the
    result."""
    found, missing = [], missing_settings(saved, config)
    for section, values in as_dict(config).items():
        for name, value in values.items():
            full = f"{section}.{name}"
            if not _changes_result(full):
                continue
            old = saved.get(section, {}).get(name, missing.get(full))
            if (full == "run.seed" and value < 0) or (
                full == "run.device" and "auto" in (value, old)
            ):
                continue
            if value != old:
                before = (
                    f"not in the checkpoint, {json.dumps(old)} in {config.recipe}"
                    if full in missing
                    else f"{json.dumps(old)} in the checkpoint"
                )
                found.append(f"{full}: {before}, {json.dumps(value)} now")
    return found


def _changes_result(full: str) -> bool:
    return full in COMPARED or not (full.partition(".")[0] in FREE_SECTIONS or full in FREE)


def missing_settings(saved: Dict[str, Dict[str, Any]], config: Config) -> Dict[str, Any]:
    """'section.name' -> value of each setting that changes the result and is missing from a
    checkpoint of an older version. The values are those of the run's recipe, if it is built in;
    else {}."""
    if config.recipe not in builtin_recipes():
        return {}
    return {
        f"{section}.{name}": value
        for section, values in as_dict(load_recipe(config.recipe)).items()
        for name, value in values.items()
        if _changes_result(f"{section}.{name}") and name not in saved.get(section, {})
    }


def check(state: Dict[str, Any], config: Config, ranks: int, samples: str, path: str) -> str:
    """UserError unless a run with these settings, ranks and images (`samples`: their fingerprint)
    continues the one of the checkpoint's state. Returns a line about the settings that are missing
    from an older version's checkpoint, "" if none are."""
    saved = completed(state["recipe"])
    found, missing = changes(saved, config), missing_settings(saved, config)
    if state["global_batch"] != config.training.batch_size * ranks:
        raise UserError(
            f"--resume {path}: its steps had {state['global_batch']} images on "
            f"{state['ranks']} ranks; {ranks} ranks of {config.training.batch_size} make another "
            "global batch"
        )
    optimizer = saved["training"]["optimizer"]
    if optimizer != config.training.optimizer:
        raise UserError(
            f"--resume {path}: its optimizer is {optimizer}, whose state "
            f"{config.training.optimizer} cannot use; start from its weights with --weights"
        )
    if state["ranks"] != ranks:
        found.append(f"ranks: {state['ranks']} in the checkpoint, {ranks} now")
    if state["samples"] != samples:
        found.append("the training images or boxes are not the checkpoint's")
    if found and not config.recovery.allow_changed_recipe:
        raise UserError(
            f"--resume {path}: {'; '.join(found)} (--allow-changed-recipe continues anyway)"
        )
    return (
        f"checkpoint {path}: of an older version; settings that it does not hold are assumed to be "
        f"those of {config.recipe}: "
        + ", ".join(f"{full} {json.dumps(value)}" for full, value in missing.items())
        if missing
        else ""
    )


def capture(run: RunState) -> Tuple[Dict[str, Dict[str, np.ndarray]], Dict[str, Any]]:
    """(arrays, state) of a run between two steps. Collective; the arrays are copies. Raises
    NotFinite, on all ranks, if a tensor is not finite."""
    step, ranks = run.step, run.ranks
    own = step.running_statistics()
    losses = np.asarray(run.metrics.unread_losses(), np.float64).reshape(-1)
    rows = ranks.gather(
        np.concatenate([own, losses])[np.newaxis].astype(np.float64), "state of the ranks"
    )
    statistics = rows[:, : len(own)].astype(np.float32)
    parameters = {**step.weights(), **step.split_statistics(statistics.astype(np.float64).mean(0))}
    arrays = dict(parameters=parameters, **step.optimizer.arrays())
    for name, values in (item for group in arrays.values() for item in group.items()):
        if not np.isfinite(values).all():
            raise NotFinite(
                f"{name} is not finite after step {run.progress.steps}: no checkpoint is saved"
            )
    parameters[METADATA] = pack_info(run.info)
    arrays["ranks"] = dict(
        running_statistics=statistics,
        unread_losses=rows[:, len(own) :].astype(np.float32).reshape(len(rows), -1, 2),
    )
    pending = run.pending.detections() if run.pending is not None else None
    if pending is not None:
        arrays["pending"] = dict(rows=pending)
    progress = replace(run.progress, seconds=run.progress.seconds + run.seconds())
    state = dict(
        progress=asdict(progress),
        seed=run.seed,
        ranks=ranks.size,
        global_batch=run.global_batch,
        samples=run.samples,
        steps_per_epoch=run.steps_per_epoch,
        loss_scale=step.scale.state(),
        optimizer=step.optimizer.counts(),
        pending=run.pending.epoch_and_step() if pending is not None else None,
        recipe=as_dict(run.config),
        python=sys.version.split()[0],
        numpy=np.__version__,
    )
    return arrays, state


def restore(
    run: RunState, arrays: Optional[Dict[str, Dict[str, np.ndarray]]], state: Dict[str, Any]
) -> None:
    """Restores weights, statistics, the optimizer's state and the loss scale of a run whose network
    is initialised. `arrays`: on rank 0, None on the others. Collective; the caller restores the
    rest of `state`."""
    step, ranks = run.step, run.ranks
    shapes = None
    if ranks.is_first:
        if "masters" not in arrays:  # a float32 checkpoint: its weights are the float32 copies
            arrays = {**arrays, "masters": arrays["parameters"]}
        _check_names(step, arrays)
        shapes = [
            list(arrays["ranks"][name].shape) for name in ("running_statistics", "unread_losses")
        ]
    shapes = json.loads(ranks.bytes_from_first(json.dumps(shapes).encode(), "shapes"))
    step.restore_weights(arrays["parameters"] if ranks.is_first else None)
    step.optimizer.restore(arrays if ranks.is_first else None)
    step.optimizer.restore_counts(state.get("optimizer"))
    statistics, losses = (
        ranks.all_from_first(
            np.asarray(arrays["ranks"][name], np.float64) if ranks.is_first else np.zeros(shape),
            name,
        )
        if np.prod(shape)
        else np.zeros(shape)
        for name, shape in zip(("running_statistics", "unread_losses"), shapes)
    )
    same = state["ranks"] == ranks.size
    step.set_statistics(statistics[ranks.rank] if same else statistics.mean(0))
    run.metrics.restore(losses[ranks.rank] if same else losses.mean(0))
    step.scale.restore(state["loss_scale"])


def _check_names(step, arrays) -> None:
    for group, shapes in (("parameters", step.shapes()), *step.optimizer.shapes().items()):
        part = arrays.get(group, {})
        for name, shape in shapes.items():
            if name not in part or part[name].shape != shape:
                raise UserError(
                    f"--resume: the checkpoint's {group} are another network's: {name} "
                    + (
                        f"has shape {part[name].shape}, not {shape}"
                        if name in part
                        else "is missing"
                    )
                )
