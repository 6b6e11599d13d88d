"""Everything a prepared run consists of, and its progress."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, Optional

from ssd.config import Config

if TYPE_CHECKING:  # these load MXNet, or what loads it
    from mxnet.gluon import HybridBlock

    from ssd.datasets.coco import CocoDataset
    from ssd.evaluation.inference import Inference
    from ssd.model.detector import Detector
    from ssd.model.device import Device
    from ssd.model.weights_info import WeightsInfo
    from ssd.training.metrics import Metrics
    from ssd.training.ranks import Ranks
    from ssd.training.schedule import Schedule
    from ssd.training.score import PendingScore
    from ssd.training.setup import RunFolder
    from ssd.training.step import TrainingStep


@dataclass
class Progress:
    """How far a run is, the same on every rank. Steps and epochs count from 1; 0: none yet."""

    steps: int = 0  # updates made
    evaluated: int = 0  # the step after which the last evaluation was made
    best_score: float = 0.0  # mAP [0, 1]
    best_epoch: int = 0
    seconds: float = 0.0  # in the timed parts of earlier parts of the run


@dataclass
class RunState:
    """A run, or the part of one after a checkpoint: made by ssd.training.prepare, then changed by
    the loop."""

    config: Config  # with the seed and the number of classes filled in
    ranks: Ranks
    folder: Optional[RunFolder]  # on rank 0; None on the others
    device: Device
    train_set: CocoDataset
    val_set: CocoDataset
    samples: str  # fingerprint of the images and boxes that are trained on
    global_batch: int  # images per step over all ranks
    steps_per_epoch: int
    schedule: Schedule
    seed: int
    network: HybridBlock
    info: WeightsInfo
    step: TrainingStep
    inference: Inference
    detector: Detector
    metrics: Metrics
    progress: Progress = field(default_factory=Progress)
    # Epoch and step of an evaluation that was not scored yet when the checkpoint was saved.
    unscored: Optional[Dict[str, Any]] = None
    pending: Optional[PendingScore] = None  # None until the data is opened
    started: Optional[float] = None  # when the timed part started [seconds since the epoch]

    @property
    def is_first(self) -> bool:
        return self.ranks.is_first

    def seconds(self) -> float:
        """Seconds since the timed part of this part of the run started; 0 before."""
        return time.time() - self.started if self.started else 0.0
