"""What a run measures: progress lines for people, CSV files and summary.json for programs."""
from __future__ import annotations

import csv
import json
import os
import time
from typing import Dict, Optional

import numpy as np

TRAIN_COLUMNS = ("epoch", "step", "images", "seconds", "class_loss", "offset_loss", "learning_rate",
                 "images_per_second", "data_wait_share")


class Metrics:
    """Losses are kept as NDArrays and read every few steps, so that no step waits for its loss."""

    def __init__(self, folder: Optional[str]):
        """`folder`: where train.csv, evaluation.csv and summary.json go; None writes nothing."""
        self.folder = folder
        self._losses = []
        self._start = self._last = None
        self._waited = self._pause = 0.0
        self._steps = 0

    def step(self, losses) -> None:
        """`losses`: NDArrays of class and offset losses, (B,) each."""
        if self._start is None:
            self._start = self._last = time.time()
        self._losses.append([loss.mean() for loss in losses])

    def mean_losses(self) -> np.ndarray:
        """Mean class and offset loss of the steps since the last call, (2,)."""
        steps, self._losses, self._steps = self._losses, [], len(self._losses)
        return np.mean([[float(loss.asscalar()) for loss in pair] for pair in steps], axis=0)

    def paused(self, seconds: float) -> None:
        """So many seconds went into something other than training."""
        self._pause += seconds

    def report(self, epoch, step, steps_per_epoch, losses, rate, global_batch, wait_seconds) -> str:
        """The progress line; also written to train.csv. `wait_seconds`: spent waiting for data since the start."""
        now = time.time()
        seconds = now - self._last - self._pause
        speed = self._steps * global_batch / seconds if seconds > 0 and step > 1 else 0.0
        waiting = (wait_seconds - self._waited) / seconds if seconds > 0 and step > 1 else 0.0
        self._last, self._waited, self._pause = now, wait_seconds, 0.0
        self._append("train.csv", TRAIN_COLUMNS, (
            epoch, step, step * global_batch, f"{now - self._start:.2f}", f"{losses[0]:.6f}", f"{losses[1]:.6f}",
            f"{rate:.8g}", f"{speed:.3f}", f"{waiting:.5f}"))
        return (f"epoch {epoch} step {step - (epoch - 1) * steps_per_epoch}/{steps_per_epoch}  "
                f"loss {losses.sum():.4f} (class {losses[0]:.4f}, offsets {losses[1]:.4f})  lr {rate:.3g}  "
                f"{speed:.2f} images/s  waiting for data {100 * waiting:.1f} %")

    def evaluation(self, epoch: int, stats: Dict[str, float]) -> None:
        """COCO's twelve numbers of an epoch, to evaluation.csv."""
        self._append("evaluation.csv", ("epoch", *stats), (epoch, *(f"{value:.6f}" for value in stats.values())))

    def summary(self, values: Dict) -> None:
        """The run in a few numbers, to summary.json."""
        with open(os.path.join(self.folder, "summary.json"), "w", encoding="utf-8") as file:
            json.dump(values, file, indent=1)
            file.write("\n")

    def _append(self, name, columns, row) -> None:
        if self.folder is None:
            return
        path = os.path.join(self.folder, name)
        fresh = not os.path.exists(path)
        with open(path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(columns)
            writer.writerow(row)
