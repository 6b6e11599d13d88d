"""What a run is made of once it is prepared, all attributes in one place."""

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
    evaluated: int = 0  # step after which was evaluated last
    best_score: float = 0.0  # mAP [0, 1]
    best_epoch: int = 0
    seconds: float = 0.0  # on the clock, in the parts of the run before this one


@dataclass
class RunState:
    """A run, or the part of one after a checkpoint: made by ssd.training.prepare, then changed by
    the loop."""

    config: Config  # its seed drawn, its classes counted
    ranks: Ranks
    folder: Optional[RunFolder]  # on rank 0; None on the others
    device: Device
    train_set: CocoDataset
    val_set: CocoDataset
    samples: str  # fingerprint of the images and boxes that are trained on
    global_batch: int  # images a step, of all ranks
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
    awaited: Optional[Dict[str, Any]] = (
        None  # epoch and step whose score the checkpoint has left to this part
    )
    pending: Optional[PendingScore] = None  # from the opening of the data on
    started: Optional[float] = None  # when the clock started [seconds since the epoch]

    @property
    def first(self) -> bool:
        return self.ranks.is_first

    def seconds(self) -> float:
        """Seconds on the clock in this part; 0 before it has started."""
        return time.time() - self.started if self.started else 0.0
