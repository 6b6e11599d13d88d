"""The training loop: until the target is reached, the epochs are over, or there is a reason to
stop."""

from __future__ import annotations

import math
import os
import time
from typing import Optional

import numpy as np

from ssd.config import Config
from ssd.training import diagnosis, recovery, setup
from ssd.training.outcome import NoScore, NotFinite, Stopped
from ssd.training.prepare import prepare
from ssd.training.progress_display import Display
from ssd.training.ranks import Ranks, SharedFlags
from ssd.training.saver import Saver
from ssd.training.state import RunState


class Training:
    """A run, or the part of one after a checkpoint. Read `run` from top to bottom; the other
    methods are its parts.

    folder: a setup.RunFolder on rank 0, None on the others. signals: a StopSignals. watch: a
    Watchdog. display: a Display, which the caller closes; default: plain lines.
    """

    def __init__(self, config: Config, ranks: Ranks, log, folder, signals, watch, display=None):
        self.config, self.ranks, self.log, self.folder = config, ranks, log, folder
        self.signals, self.watch, self.display = signals, watch, display or Display()
        self.flags = SharedFlags(ranks, 3)
        self.state: Optional[RunState] = None  # None until everything is prepared
        self.saver: Optional[Saver] = None
        self.check_every = 1  # steps between two checks for numbers that are not finite
        self.train_data = self.val_data = None

    @property
    def started(self) -> Optional[float]:
        """When the timed part started [seconds since the epoch]; None before."""
        return self.state.started if self.state is not None else None

    def print_line(self, text: str) -> None:
        if self.ranks.is_first:
            print(text, flush=True)

    def run(self) -> None:
        run = self.state = prepare(
            self.config,
            self.ranks,
            self.log,
            self.folder,
            self.watch.note,
            self.print_line,
            self.stop_if_requested,
        )
        self.check_every = recovery.finite_interval(run.config, run.device.kind)
        self.saver = Saver(run)
        self.log.seed(run.seed)
        setup.log_hyperparameters(
            self.log,
            run.config,
            run.schedule,
            run.network,
            len(run.train_set.images_with_boxes),
            run.val_set.num_images,
            run.global_batch,
        )
        self.stop_if_requested()
        self.log.init_stop()
        self.log.run_start()
        run.started = time.time()
        status = "aborted"
        try:
            self.display.begin(run, self.watch)
            self.open_data()
            if self.train_epochs():
                status = "success"
        finally:
            self.log.end(status)
            self.display.close()
            self.close_data()
        self.saver.close()
        self.print_line(
            run.metrics.result(
                status,
                run.progress,
                run.config.evaluation.target,
                run.seconds(),
                global_batch=run.global_batch,
                seed=run.seed,
                ranks=self.ranks.size,
                skipped_steps=run.step.scale.skipped,
                scored=run.pending.scored,
            )
        )

    # ---- the timed part

    def open_data(self) -> None:
        from ssd.data.pipeline import EvaluationLoader, TrainingLoader
        from ssd.training.score import PendingScore

        run = self.state
        share = dict(
            rank=self.ranks.rank,
            size=self.ranks.size,
            device=run.device.kind,
            device_id=run.device.index,
            pad_channels=run.network.input_channels == 4,
        )
        self.watch.note("opening the data set", run.progress.steps)
        self.train_data = TrainingLoader(
            run.config,
            run.train_set,
            run.detector.matcher,
            seed=run.seed,
            first_step=run.progress.steps,
            **share,
        )
        if run.progress.steps and not self.train_data.exact:
            self.print_line(
                "decode cache: after a resume the order of images differs from an uninterrupted run"
            )
        self.val_data = EvaluationLoader(run.config, run.val_set, **share)
        run.pending = PendingScore(
            run.val_set, self.folder.path if self.ranks.is_first else None, self.ranks
        )
        if run.unscored is not None:
            self.log.eval_start(run.unscored["epoch"])
            rows = (
                self.folder.checkpoint.arrays["pending"]["rows"]
                if self.ranks.is_first
                else np.empty((0, 7))
            )
            run.pending.start(run.unscored["epoch"], run.unscored["step"], rows)
            self.saver.hold(run.unscored["step"])

    def close_scorer(self) -> None:
        """Ends the scoring process, if there is one. Any thread may call it, at any time."""
        if self.state is not None and self.state.pending is not None:
            self.state.pending.close()

    def close_data(self) -> None:
        run = self.state
        for part in (run.pending, self.train_data, self.val_data, run.metrics):
            if part is not None:
                part.close()

    def at_last_step(self) -> bool:
        run = self.state
        return bool(run.config.run.max_steps) and run.progress.steps >= run.config.run.max_steps

    def train_epochs(self) -> bool:
        """Trains until the target is known to be reached (True) or the epochs are over (False)."""
        run = self.state
        epochs, progress = run.config.training.epochs, run.progress
        for epoch in range(max(1, math.ceil(progress.steps / run.steps_per_epoch)), epochs + 1):
            end = epoch * run.steps_per_epoch
            if progress.steps < end:  # else resumed at the end of an epoch
                self.log.epoch_start(epoch)
                while progress.steps < end and not self.at_last_step():
                    if self.train_step(epoch):
                        self.log.epoch_stop(epoch)
                        return True
                self.log.epoch_stop(epoch)
            if self.evaluation_due(epoch) and progress.evaluated < progress.steps:
                # One score at a time: wait for the previous one.
                if self.wait_for_score():
                    return True
                self.evaluate(epoch)
            if self.at_last_step():
                break
        return self.wait_for_score()

    def evaluation_due(self, epoch: int) -> bool:
        run = self.state
        at_end = run.progress.steps == epoch * run.steps_per_epoch
        return self.at_last_step() or (
            at_end
            and (
                epoch % run.config.evaluation.eval_every == 0 or epoch == run.config.training.epochs
            )
        )

    def train_step(self, epoch: int) -> bool:
        """One step and what is due after it. Returns whether the target is known to be reached."""
        run = self.state
        number = run.progress.steps + 1
        self.watch.note(f"epoch {epoch}, reading data", number)
        batch = next(self.train_data)
        check = number % self.check_every == 0 or run.step.scale.window > 0
        self.watch.note(f"epoch {epoch}, training", number)
        losses = run.step.gradients(batch.images, batch.offsets, batch.classes, check)
        self.watch.note(f"epoch {epoch}, averaging gradients", number, waiting=True)
        rate = run.schedule(epoch, run.progress.steps)
        if not check or self.finite(epoch, losses, batch):
            self.watch.note(f"epoch {epoch}, updating", number)
            run.step.update(rate)
        run.progress.steps = number
        run.metrics.step(losses)
        if number % run.config.run.log_interval == 0 or number == 1:
            self.report(epoch, number, rate)
        return self.after_step(epoch)

    def finite(self, epoch: int, losses, batch) -> bool:
        """Whether to make the update. Raises NotFinite if training cannot continue, after saving
        the state before the step."""
        run = self.state
        number, finite = run.progress.steps + 1, run.step.finite()
        if run.step.scale.accepts(finite):
            if not finite:
                run.step.discard()
                self.print_line(
                    f"epoch {epoch} step {number}: gradients overflow, the step is skipped "
                    f"({run.step.scale.skipped} so far); loss scale is now "
                    f"{run.step.scale.value:g}"
                )
            return finite
        text, weights_good = diagnosis.explain(self.state, losses, batch, epoch, number)
        run.step.discard()
        if weights_good:
            self.save()
            text += self.saver.resume_hint()
        raise NotFinite(text)

    def report(self, epoch: int, number: int, rate: float) -> None:
        run = self.state
        mean = self.ranks.mean(run.metrics.mean_losses(), "loss")
        # Noticed here if not every step is checked. With a changing loss scale every step is.
        if not np.isfinite(mean).all() and not run.step.scale.window:
            raise NotFinite(f"epoch {epoch}, step {number}: loss {mean.sum()}")
        line = run.metrics.report(
            epoch,
            number,
            run.steps_per_epoch,
            mean,
            rate,
            run.global_batch,
            self.train_data.wait_seconds,
            run.step.lock_wait.seconds,
        )
        if not self.display.shows_steps:
            self.print_line(line)

    def after_step(self, epoch: int) -> bool:
        """Handles scores that have arrived, checkpoints and signals. Returns whether the target is
        known to be reached."""
        run = self.state
        stop, save, scored = self.flags.reduce(self.local_flags(may_save=True))
        if scored and self.take_score():
            return True
        if (
            save
            or self.evaluation_due(epoch)
            or self.saver.interval.due_at(run.progress.steps, run.steps_per_epoch)
        ):
            self.save()
        if stop:
            self.stop(epoch)
        return False

    def local_flags(self, may_save: bool = False):
        """Whether this rank wants to stop, wants to save, and has a score."""
        # due_now is True only once, so ask it only if the caller can save.
        save = may_save and self.ranks.is_first and self.saver.interval.due_now()
        pending = self.state.pending if self.state is not None else None
        return self.signals.received is not None, save, pending is not None and pending.is_ready()

    def evaluate(self, epoch: int) -> None:
        """Runs detection on this rank's share of the validation images, and starts the scoring,
        which runs beside the training."""
        from ssd.evaluation.inference import detect
        from ssd.model.weights import save_weights

        run = self.state
        start = time.time()
        self.log.eval_start(epoch)
        run.step.average_statistics()
        share = math.ceil(run.val_set.num_images / self.ranks.size)
        batches = iter(range(math.ceil(share / run.config.evaluation.eval_batch_size)))

        def check_signals():
            self.watch.note(f"epoch {epoch}, evaluating", run.progress.steps)
            next(batches, None)
            if self.flags.reduce(self.local_flags())[0]:
                self.stop(epoch)

        run.inference.build()
        rows = detect(run.inference, self.val_data, run.val_set.sizes, check_signals)
        for _ in batches:  # a rank with one batch less calls the collective as often as the others
            if self.flags.reduce(self.local_flags())[0]:
                self.stop(epoch)
        self.watch.note(f"epoch {epoch}, gathering detections", run.progress.steps, waiting=True)
        rows = self.ranks.gather(rows, "detections")
        if self.ranks.is_first:
            self.saver.try_write(
                save_weights,
                run.network,
                os.path.join(self.folder.path, "weights.params"),
                run.info,
            )
        run.pending.start(epoch, run.progress.steps, rows)
        self.saver.hold(run.progress.steps)
        run.progress.evaluated = run.progress.steps
        run.metrics.evaluated(time.time() - start)
        self.print_line(
            f"epoch {epoch}: {len(rows)} detections on {run.val_set.num_images} images, "
            f"{run.val_set.num_images / (time.time() - start):.1f} images/s"
        )

    def wait_for_score(self) -> bool:
        """Waits for the pending score, if any. Returns whether it reaches the target."""
        run = self.state
        while run.pending.epoch is not None:
            start = time.time()
            self.watch.note(
                "waiting for the score", run.progress.steps, waiting=not self.ranks.is_first
            )
            stop, _, scored = self.flags.reduce(self.local_flags(), wait=True)
            if scored:
                if self.take_score():
                    return True
            elif stop:
                self.stop(run.pending.epoch)
            else:
                time.sleep(0.05)
                run.metrics.evaluated(time.time() - start, again=True)
        return False

    def take_score(self) -> bool:
        """Logs a score that has arrived. Returns whether it reaches the target. NoScore if the
        scoring failed."""
        run = self.state
        scored = run.pending.take()
        if scored is None:
            return False
        if scored.stats is None:
            self.save()
            raise NoScore(
                f"epoch {scored.epoch} could not be scored: {scored.failure}"
                f"{self.saver.resume_hint()}"
            )
        epoch, stats, progress = scored.epoch, scored.stats, run.progress
        score = max(0.0, stats["AP"])
        # Known on rank 0 only.
        extent = run.pending.scored.extent if run.pending.scored is not None else {}
        self.log.eval_accuracy(epoch, score, **extent)
        self.log.eval_result(epoch, {**stats, **extent})
        self.log.eval_stop(epoch)
        run.metrics.evaluation(epoch, scored.step, stats, run.pending.scored)
        best = score > progress.best_score or not progress.best_epoch
        if best:
            progress.best_score, progress.best_epoch = score, epoch
        self.saver.scored(scored.step, score, best, extent)
        self.print_line(
            f"epoch {epoch}: "
            + "  ".join(f"{name} {value:.4f}" for name, value in stats.items())
            + (f"  (on {run.pending.scored})" if run.pending.scored else "")
        )
        return score >= run.config.evaluation.target

    # ---- saving and stopping

    def save(self) -> None:
        self.watch.note("saving a checkpoint", self.state.progress.steps)
        self.saver.save()

    def stop_if_requested(self) -> None:
        """For the time before the timed part, when there is nothing to save. Collective."""
        self.watch.note("getting ready", self.state.progress.steps if self.state is not None else 0)
        if self.flags.reduce(self.local_flags(), wait=True)[0]:
            self.stop(0)

    def stop(self, epoch: int) -> None:
        """Saves a checkpoint, then raises Stopped on every rank."""
        names = self.ranks.gather_texts(self.signals.received or "", "signals")
        text = " and ".join(f"{name} on rank {rank}" for rank, name in enumerate(names) if name)
        if self.started is None:
            # Do not save: the checkpoint of a resumed run holds more, namely the pending score.
            raise Stopped(f"{text}, before the first step; nothing is lost")
        self.save()
        raise Stopped(
            f"{text}, after step {self.state.progress.steps} (epoch {epoch})"
            f"{self.saver.resume_hint()}"
        )
