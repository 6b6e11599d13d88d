"""A published run of the benchmark, for comparison.

Source: the MLPerf Training v1.1 results (mlcommons/training_results_v1.1), Fujitsu, benchmark ssd
on a PRIMERGY GX2460 M1 with four A100: one of the five logs. Scores are the log's, losses the means
of an epoch's progress lines.
"""

from __future__ import annotations

from typing import Optional

NAME = "Fujitsu, MLPerf v1.1, 4 x A100"
RECIPE = "ssd-resnet34-coco"
TRAIN_IMAGES = 117266  # of COCO 2017, those with a box
# By epoch (from 1): mAP in [0, 1] after it, and the mean loss of its steps.
MAP = {
    5: 0.0806,
    10: 0.1289,
    15: 0.1447,
    20: 0.1661,
    25: 0.1687,
    30: 0.1765,
    35: 0.1880,
    40: 0.1786,
    45: 0.2278,
    50: 0.2338,
}
LOSS = {1: 12.24, 2: 7.45, 5: 5.32, 10: 4.54, 20: 4.07, 30: 3.84, 44: 3.67, 45: 3.40, 50: 3.25}
DECAY_EPOCHS = (44, 55)
# (epoch, learning rate): .003157 * 456 / 32 after 3 epochs of warm-up, a tenth after epoch 44
# (config_PG.sh).
RATE = ((0, 0.0), (3, 0.045), (44, 0.045), (44, 0.0045), (50, 0.0045))


def is_benchmark(config) -> bool:
    """Whether a Config is the benchmark's network with 80 classes, as on COCO or a part of it."""
    model = config.model
    return (
        model.detector,
        model.backbone,
        model.width,
        model.image_size.plain,
        model.num_classes,
    ) == ("ssd", "resnet34", 1.0, 300, 81)


def is_same_task(config, train_images: int) -> bool:
    """Whether a run on so many training images should behave like the published one: all of COCO,
    ImageNet weights at the start, the same decays."""
    return (
        is_benchmark(config)
        and abs(train_images - TRAIN_IMAGES) < 0.01 * TRAIN_IMAGES
        and bool(config.run.pretrained_backbone)
        and config.training.optimizer == "sgd"
        and config.training.decay_epochs == DECAY_EPOCHS
    )


def epoch_reaching(target: float) -> Optional[int]:
    """The epoch after which the published run first reached this mAP in [0, 1]; None if it never
    did."""
    return min((epoch for epoch, score in MAP.items() if score >= target), default=None)
