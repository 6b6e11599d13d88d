"""The measurements of a run: progress lines for people, CSV files and summary.json for programs."""

from __future__ import annotations

import csv
import json
import os
import time
from typing import Dict, NamedTuple, Optional

import numpy as np

from ssd.files import replace_file, replacing
from ssd.machine_load import OtherWork
from ssd.training.estimates import MeanSeconds

# "seconds" counts from the first step of this part of the run; the waits and evaluations are
# included in it.
TRAIN_COLUMNS = (
    "epoch",
    "step",
    "images",
    "seconds",
    "class_loss",
    "offset_loss",
    "learning_rate",
    "images_per_second",
    "data_wait_share",
    "data_wait_seconds",
    "evaluation_seconds",
    "lock_wait_share",
    "lock_wait_seconds",
)
OTHER_WORK_SHOWN = 0.1  # least share of the cores taken by other work that a progress line shows
LOCK_WAIT_SHOWN = 0.02  # least share of time waited for Python's lock that a progress line shows
EXTENT = ("images", "objects")  # the last columns of evaluation.csv: how many were scored


class TimeSplit(NamedTuple):
    """Seconds since the first step, and of these the seconds in which the training loop waited for
    data, evaluated, and waited for Python's lock while it queued steps."""

    total: float = 0.0
    waiting: float = 0.0
    evaluating: float = 0.0
    locked: float = 0.0


class Metrics:
    """Keeps losses as NDArrays and reads them every few steps, so that no step waits for its loss.

    The progress display reads `last`, the newest row of train.csv (numbers by column) or None;
    `scores`, the (epoch, mAP) so far, including earlier parts of the run; `scored`, their
    ScoredSet; `split`, the TimeSplit of the last update.
    """

    def __init__(self, folder: Optional[str], events=None):
        """`folder`: for train.csv, evaluation.csv and summary.json; None: nothing is written.
        `events`: an ssd.training.tensorboard.Events that gets the numbers too, or None."""
        self.folder, self._events = folder, events
        self.last: Optional[Dict[str, float]] = None
        self.scores = []
        self.scored = None  # the ScoredSet of the last score
        self.split = TimeSplit()
        self._evaluations = 0
        self._counted, self._training_seconds = 0, 0.0  # steps between reports, and their time
        # Waits for data and lock until the first step, which the seconds do not include.
        self._waits_before = None
        self._losses = []
        self._start = self._last = None
        self._others = OtherWork()
        self._waits, self._pause = np.zeros(2), 0.0
        self._steps = 0  # made in this part since the last report
        self._carried = 0  # unread losses of the part before

    def step(self, losses) -> None:
        """`losses`: NDArrays of class and offset losses, (B,) each."""
        if self._start is None:
            self._start = self._last = time.time()
        self._losses.append([loss.mean() for loss in losses])

    def unread_losses(self) -> np.ndarray:
        """Mean class and offset loss of each step since `mean_losses`, (k, 2)."""
        arrays = [loss for pair in self._losses for loss in pair if not isinstance(loss, float)]
        if arrays:
            import mxnet as mx

            # All at once: reading an array costs ten calls of MXNet's library.
            values = iter(mx.nd.concat(*arrays, dim=0).asnumpy().tolist())
            self._losses = [
                [loss if isinstance(loss, float) else next(values) for loss in pair]
                for pair in self._losses
            ]
        return np.array(self._losses, np.float64).reshape(-1, 2)

    def restore(self, losses: np.ndarray) -> None:
        """Restores the `unread_losses` of a checkpoint."""
        self._start = self._last = time.time()
        self._losses = [list(map(float, pair)) for pair in losses]
        self._carried = len(self._losses)

    def set_aside(self, part: int, steps: int, epoch: int) -> None:
        """Part `part` of a run starts after `steps` steps, with all epochs up to `epoch` evaluated.
        Moves later rows to files of their own, since they will be computed again."""
        for name, column, last in (
            ("train.csv", "step", steps),
            ("evaluation.csv", "epoch", epoch),
        ):
            path = os.path.join(self.folder, name)
            if not os.path.exists(path):
                continue
            with open(path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                rows, columns = list(reader), list(reader.fieldnames or ())
            if not columns:  # empty, after a full disc or a power cut
                os.remove(path)
                continue
            # Skip a line that was cut short when the part before ended.
            rows = [
                row for row in rows if None not in row.values() and (row[column] or "").isdigit()
            ]
            late = [row for row in rows if int(row[column]) > last]
            if late:
                _write_rows(path[:-4] + f"-undone-by-part-{part}.csv", columns, late)
            rows = [row for row in rows if int(row[column]) <= last]
            if columns == list(TRAIN_COLUMNS[: len(columns)]):  # an older version had fewer columns
                columns = list(TRAIN_COLUMNS)
            if name == "evaluation.csv":
                columns += [column for column in EXTENT if column not in columns]
                self.scores = [(int(row["epoch"]), max(0.0, float(row["AP"]))) for row in rows]
            _write_rows(path, columns, rows)

    def mean_losses(self) -> np.ndarray:
        """Mean class and offset loss of the steps since the last call, (2,)."""
        losses, self._losses = self.unread_losses(), []
        self._steps, self._carried = len(losses) - self._carried, 0
        return losses.mean(0)

    def evaluated(self, seconds: float, again: bool = False) -> None:
        """The training loop has spent `seconds` on an evaluation; `again`: on one that was counted
        before."""
        self._pause += seconds
        self._evaluations += not again
        if self._start is not None:
            self.split = self.split._replace(
                total=time.time() - self._start, evaluating=self.split.evaluating + seconds
            )

    def mean_seconds(self) -> MeanSeconds:
        """Mean seconds of a step and of an evaluation since the start of this part."""
        return MeanSeconds(
            self._training_seconds / self._counted if self._counted else None,
            self.split.evaluating / self._evaluations if self._evaluations else None,
        )

    def report(
        self,
        epoch,
        step,
        steps_per_epoch,
        losses,
        rate,
        global_batch,
        wait_seconds,
        lock_seconds=0.0,
    ) -> str:
        """The progress line; also writes a row of train.csv. wait_seconds, lock_seconds: spent
        waiting for data and for Python's lock since the start."""
        now, others = time.time(), self._others.share()
        seconds = now - self._last - self._pause
        speed = self._steps * global_batch / seconds if seconds > 0 and step > 1 else 0.0
        waits = np.array([wait_seconds, lock_seconds])
        waiting, locked = (
            ((waits - self._waits) / seconds).tolist() if seconds > 0 and step > 1 else (0.0, 0.0)
        )
        self._last, self._waits, self._pause = now, waits, 0.0
        if self._waits_before is None:
            self._waits_before = waits if self._steps == 1 else np.zeros(2)
        if step > 1:
            self._counted, self._training_seconds = (
                self._counted + self._steps,
                self._training_seconds + seconds,
            )
        waits = (waits - self._waits_before).tolist()
        self.split = TimeSplit(now - self._start, waits[0], self.split.evaluating, waits[1])
        self._append(
            "train.csv",
            TRAIN_COLUMNS,
            (
                epoch,
                step,
                step * global_batch,
                f"{now - self._start:.2f}",
                f"{losses[0]:.6f}",
                f"{losses[1]:.6f}",
                f"{rate:.8g}",
                f"{speed:.3f}",
                f"{waiting:.5f}",
                f"{self.split.waiting:.2f}",
                f"{self.split.evaluating:.2f}",
                f"{locked:.5f}",
                f"{self.split.locked:.2f}",
            ),
        )
        self.last = dict(
            zip(
                TRAIN_COLUMNS,
                (
                    epoch,
                    step,
                    step * global_batch,
                    self.split.total,
                    *map(float, losses),
                    rate,
                    speed,
                    waiting,
                    self.split.waiting,
                    self.split.evaluating,
                    locked,
                    self.split.locked,
                ),
            )
        )
        if self._events is not None:
            self._events.trained(step, self.last)
        return (
            f"epoch {epoch} step {step - (epoch - 1) * steps_per_epoch}/{steps_per_epoch}  loss "
            f"{losses.sum():.4f} (class {losses[0]:.4f}, offsets {losses[1]:.4f})  lr {rate:.3g}  "
            f"{speed:.2f} images/s  waiting for data {100 * waiting:.1f} %"
            + (f"  Python's lock {100 * locked:.1f} %" if locked >= LOCK_WAIT_SHOWN else "")
            + (
                f"  other work takes {100 * others:.0f} % of the cores"
                if others >= OTHER_WORK_SHOWN
                else ""
            )
        )

    def evaluation(self, epoch: int, step: int, stats: Dict[str, float], scored=None) -> None:
        """Writes COCO's twelve numbers of an epoch, which ended after `step`, to evaluation.csv.
        scored: see `result`."""
        self.scores.append((epoch, max(0.0, stats["AP"])))
        self.scored = scored
        extent = scored.extent if scored is not None else {}
        self._append(
            "evaluation.csv",
            ("epoch", *stats, *extent),
            (epoch, *(f"{value:.6f}" for value in stats.values()), *extent.values()),
        )
        if self._events is not None:
            self._events.evaluated(step, {**stats, **extent})

    def close(self) -> None:
        if self._events is not None:
            self._events.close()

    def result(
        self,
        status: str,
        progress,
        target: float,
        seconds: float,
        *,
        global_batch: int,
        seed: int,
        ranks: int,
        skipped_steps: int,
        scored=None,
    ) -> str:
        """The last line of a complete run; also writes summary.json.

        progress: an ssd.training.state.Progress; target: mAP [0, 1]; seconds: of the timed part of
        this part of the run; scored: the ssd.evaluation.scored_set.ScoredSet of the mAP, None if
        nothing was scored.
        """
        if self.folder is not None:
            self.summary(
                dict(
                    status=status,
                    target=target,
                    best_map=progress.best_score,
                    seconds=round(seconds, 2),
                    seconds_before=round(progress.seconds, 2),
                    steps=progress.steps,
                    images=progress.steps * global_batch,
                    seed=seed,
                    ranks=ranks,
                    skipped_steps=skipped_steps,
                    **(
                        {}
                        if scored is None
                        else {f"eval_{name}": count for name, count in scored.extent.items()}
                    ),
                )
            )
        word = "reached" if status == "success" else "not reached"
        before = f" and {progress.seconds:.1f} s in the parts before" if progress.seconds else ""
        of = f" on {scored}" if scored is not None else ""
        return (
            f"target {target} {word}: best mAP {progress.best_score:.4f}{of} after "
            f"{progress.steps} steps of {global_batch}, {seconds:.1f} s{before}; run folder "
            f"{self.folder}"
        )

    def summary(self, values: Dict) -> None:
        """Writes the run's main numbers to summary.json; keeps the file of an earlier part as
        summary-1.json."""
        path, number = os.path.join(self.folder, "summary.json"), 1
        if os.path.exists(path):
            while os.path.exists(f"{path[:-5]}-{number}.json"):
                number += 1
            os.rename(path, f"{path[:-5]}-{number}.json")
        replace_file(path, (json.dumps(values, indent=1) + "\n").encode())

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


def _write_rows(path: str, columns, rows) -> None:
    """Replaces the CSV file at `path`."""
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
