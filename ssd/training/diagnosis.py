"""Why a step's numbers are not finite: the first tensor, the rank, the images.

Here "bad" means not finite.
"""

from __future__ import annotations

import json
from typing import Dict, List, Optional, Tuple

import numpy as np

from ssd.training.state import RunState

_SHOWN = 4  # names in the message; not-finite.json has all


def first_bad(tensors) -> Optional[str]:
    """The name of the first of (name, NDArray) with an element that is not finite."""
    return next((name for name, array in tensors if not np.isfinite(array.asnumpy()).all()), None)


def examine(step, losses, batch, dataset, ranks) -> List[Dict]:
    """For each rank, what was bad before its gradients were averaged: `weights` (first bad tensor
    or null), `gradients` (whether any is bad), `losses` (files of the images whose loss is bad),
    `images` (files of its batch). Collective.

    `losses`: class and offset losses of the step, (B,) NDArrays; `batch`: its TrainingBatch.
    """
    names = [dataset.file_names[index] for index in batch.indices]
    total = losses[0].asnumpy() + losses[1].asnumpy()
    context = losses[0].context
    found = dict(
        weights=first_bad(
            (name, parameter.data(context)) for name, parameter in step.parameters.items()
        ),
        gradients=not step.own_finite(),
        images=names,
        losses=[name for name, value in zip(names, total) if not np.isfinite(value)],
    )
    return [
        json.loads(text) for text in ranks.gather_texts(json.dumps(found), "what is not finite")
    ]


def explain(run: RunState, losses, batch, epoch: int, number: int) -> Tuple[str, bool]:
    """One line on why step `number` of a run is not finite, and whether all weights still are.
    Collective; also writes the details to not-finite.json."""
    step = run.step
    found = examine(step, losses, batch, run.train_set, run.ranks)
    averaged = first_bad(
        (name, parameter.grad(losses[0].context)) for name, parameter in step.parameters.items()
    )
    text = f"epoch {epoch}, step {number}, before the update: {explanation(found, averaged)}"
    if run.is_first:
        path = run.folder.file("not-finite.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(
                dict(epoch=epoch, step=number, averaged_gradient=averaged, ranks=found),
                file,
                indent=1,
            )
        text += f"; details in {path}"
    return text, not any(part["weights"] for part in found)


def explanation(found: List[Dict], averaged: Optional[str]) -> str:
    """One line about the result of `examine`. averaged: the first averaged gradient that is bad."""
    for rank, part in enumerate(found):
        if part["weights"]:
            return f"weights of rank {rank}: {part['weights']} is not finite"
    for rank, part in enumerate(found):
        if part["losses"]:
            return f"loss of rank {rank} is not finite for {_shown(part['losses'])}" + (
                f", gradient of {averaged}" if averaged else ""
            )
    for rank, part in enumerate(found):
        if part["gradients"]:
            return (
                f"gradient of {averaged} is not finite on rank {rank}, whose images are "
                f"{_shown(part['images'])}"
            )
    return f"gradient of {averaged} is not finite, but only after averaging over the ranks"


def _shown(names: List[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
