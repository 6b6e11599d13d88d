"""Settings that follow from the data set."""

from __future__ import annotations

from ssd.config import Config


def resolve(config: Config, dataset) -> Config:
    """`config` with num_classes 0 replaced by that of `dataset` (a CocoDataset), background
    included."""
    return (
        config if config.model.num_classes else config.with_values(num_classes=dataset.num_classes)
    )
