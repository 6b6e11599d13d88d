"""The learning rate of every step.

From the PyTorch reference of MLPerf Training v1.1, train.py: linear scaling with the global batch, linear
warm-up, a factor after given epochs.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

from ssd.config import TrainingConfig


@dataclass(frozen=True)
class Schedule:
    """Learning rate by (epoch from 1, step from 0 over the whole run)."""
    peak: float
    warmup_steps: int
    warmup_factor: float
    decay_epochs: Tuple[int, ...]
    decay_factor: float

    def __call__(self, epoch: int, step: int) -> float:
        """Boundary 44 means that epoch 45 is the first with the lower rate."""
        rate = self.peak * self.decay_factor ** sum(epoch > boundary for boundary in self.decay_epochs)
        if step < self.warmup_steps:
            rate *= 1 - (self.warmup_steps - step) / (self.warmup_steps * 2 ** self.warmup_factor)
        return rate


def build_schedule(config: TrainingConfig, global_batch: int, train_images: int) -> Schedule:
    """`train_images`: images with a box (117,266 of COCO 2017), which the warm-up's epochs count."""
    return Schedule(config.base_lr * global_batch / config.lr_batch,
                    int(config.warmup_epochs * train_images / global_batch), config.warmup_factor,
                    config.decay_epochs, config.decay_factor)
