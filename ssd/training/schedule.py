"""The learning rate of every step: a peak that grows with the global batch, a warm-up, a schedule.

`reference` and `steps` come from the PyTorch reference of MLPerf Training v1.1, train.py; `linear`
comes from that of v2.0 to v5.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Tuple

from ssd.config import TrainingConfig


def _steps(config: TrainingConfig, warmup: int, total: int) -> Callable[[int, int], float]:
    """Multiplies by decay_factor after each of decay_epochs: 44 means that epoch 45 is the first
    with the lower rate."""
    return lambda epoch, step: (
        config.decay_factor ** sum(epoch > boundary for boundary in config.decay_epochs)
    )


def _constant(config: TrainingConfig, warmup: int, total: int) -> Callable[[int, int], float]:
    return lambda epoch, step: 1.0


def _cosine(config: TrainingConfig, warmup: int, total: int) -> Callable[[int, int], float]:
    """Half a cosine, step by step, from 1 after the warm-up to final_factor at the end of the last
    epoch; from MindCV."""
    final = config.final_factor
    return lambda epoch, step: (
        final
        + (1 - final) * (1 + math.cos(math.pi * max(0, step - warmup) / max(1, total - warmup))) / 2
    )


# Each takes the settings, the steps of the warm-up and those of the run, and returns the factor on
# the peak by (epoch from 1, step from 0 over the run).
SCHEDULES = {"steps": _steps, "constant": _constant, "cosine": _cosine}


def _reference(config: TrainingConfig, steps: int) -> Callable[[int], float]:
    """Linear from 1 - 2^-warmup_factor to 1."""
    return lambda step: 1 - (steps - step) / (steps * 2**config.warmup_factor)


def _linear(config: TrainingConfig, steps: int) -> Callable[[int], float]:
    """Linear from warmup_factor to 1."""
    return lambda step: config.warmup_factor * (1 - step / steps) + step / steps


# Each takes the settings and the steps of the warm-up, and returns the factor on the schedule's
# rate by step from 0, for these steps only.
WARMUPS = {"reference": _reference, "linear": _linear}


@dataclass(frozen=True)
class Schedule:
    """The learning rate by (epoch from 1, step from 0 over the run).

    decay_epochs: the epochs after which the rate drops; () if it has no drops.
    """

    peak: float
    warmup_steps: int
    decay_epochs: Tuple[int, ...]
    _factor: Callable[[int, int], float]
    _warmup: Callable[[int], float]

    def __call__(self, epoch: int, step: int) -> float:
        rate = self.peak * self._factor(epoch, step)
        return rate * self._warmup(step) if step < self.warmup_steps else rate


def build_schedule(config: TrainingConfig, global_batch: int, train_images: int) -> Schedule:
    """`train_images`: images with a box (117,266 of COCO 2017). In a reference warm-up an epoch has
    all these images, in a linear one only the full batches."""
    batches = train_images / global_batch
    steps = int(
        config.warmup_epochs * (batches if config.warmup == "reference" else max(1, int(batches)))
    )
    peak = config.base_lr * global_batch / config.lr_batch if config.lr_batch else config.base_lr
    total = config.epochs * max(1, int(batches))
    return Schedule(
        peak=peak,
        warmup_steps=steps,
        decay_epochs=config.decay_epochs or (),
        _factor=SCHEDULES[config.schedule](config, steps, total),
        _warmup=WARMUPS[config.warmup](config, steps),
    )
