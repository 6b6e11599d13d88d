"""Training to the target, or until there is a reason to leave."""
from __future__ import annotations

import json
import math
import os
import time

import numpy as np

from ssd.config import Config
from ssd.errors import UserError
from ssd.training import diagnosis, recovery, setup
from ssd.training.outcome import NoScore, NotFinite, Stopped
from ssd.training.progress_display import Display
from ssd.training.ranks import Agreement, Ranks
from ssd.training.saver import Saver


class Training:
    """A run, or the part of one after a checkpoint. `run` reads from top to bottom; the other methods are its parts.

    folder: a setup.RunFolder on rank 0, None on the others. signals: a StopSignals. watch: a Watchdog. display: a
    Display that whoever made it closes; default: plain lines.
    """

    def __init__(self, config: Config, ranks: Ranks, log, folder, signals, watch, display=None):
        self.config, self.ranks, self.log, self.folder = config, ranks, log, folder
        self.signals, self.watch = signals, watch
        self.first, self.display = ranks.is_first, display or Display()
        self.started = None    # when the clock started [seconds since the epoch]
        self.progress = recovery.Progress()
        self.agreement = Agreement(ranks, 3)
        self.train_data = self.val_data = self.pending = self.saver = None

    def say(self, text: str) -> None:
        if self.first:
            print(text, flush=True)

    def run(self) -> None:
        self.prepare()
        self.leave_if_asked()
        self.log.init_stop()
        self.log.run_start()
        self.started = time.time()
        status = "aborted"
        try:
            self.display.begin(self)
            self.open_data()
            if self.train_epochs():
                status = "success"
        finally:
            self.log.end(status)
            self.display.close()
            self.close_data()
        self.saver.close()
        self.say(self.metrics.result(self, status))

    # ---- before the clock

    def prepare(self) -> None:
        """Everything that does not touch the data set, and its one-off check (cached beside the user's files)."""
        config, ranks = self.config, self.ranks
        from ssd.data.resolve import resolve
        from ssd.data.samples import steps_per_epoch
        from ssd.evaluation.inference import build_inference
        from ssd.model.device import choose_device
        from ssd.model.detector import build_detector, describe
        from ssd.model.weights_info import WeightsInfo
        from ssd.training.schedule import build_schedule
        from ssd.training.step import TrainingStep, dry_run

        self.device = choose_device(config, ranks.local_rank)
        self.check_every = recovery.finite_interval(config, self.device.kind)
        self.watch.note("checking the data set", 0)
        self.train_set, self.val_set = setup.load_datasets(config, ranks, self.leave_if_asked)
        self.config = config = resolve(config, self.train_set)
        setup.clear_cache(config, ranks, self.log, self.say)
        self.global_batch = config.training.batch_size * ranks.size
        samples = len(self.train_set.images_with_boxes)
        if samples < self.global_batch:
            raise UserError(f"--batch-size {config.training.batch_size}: {ranks.size} ranks take "
                            f"{self.global_batch} images a step, {self.train_set.path} has {samples} with a box")
        self.steps_per_epoch = steps_per_epoch(samples, self.global_batch)
        self.schedule = build_schedule(config.training, self.global_batch, samples)
        self.samples = recovery.fingerprint(self.train_set)
        resumed = self.read_state()

        seed = config.run.seed if config.run.seed >= 0 else int.from_bytes(os.urandom(3), "little")
        self.seed = int(ranks.from_first(resumed["seed"] if resumed and config.run.seed < 0 else seed, "seed"))
        self.config = config = config.with_values(seed=self.seed)
        if self.first:
            setup.save_recipe(config, self.folder, ranks.size)
            self.say(setup.describe(config, self.device, ranks.size))
        self.detector = build_detector(config)
        self.network = self.detector.network
        self.say(describe(config, self.detector.sizes))
        self.info = WeightsInfo(config, self.train_set.category_ids, self.train_set.category_names)
        self.watch.note("building the network", 0)
        setup.initialize_weights(self.network, config, ranks, self.device.context, bool(resumed),
                                 self.train_set.category_names, self.say)
        self.step = TrainingStep(self.network, self.detector.loss, config, ranks)
        self.inference = build_inference(self.detector, self.device)
        dry_run(self.step, self.inference, self.network, config, len(self.detector.default_boxes), self.device.context)
        self.metrics = setup.open_metrics(config, self.folder if self.first else None, resumed)
        if resumed:
            self.take_up(resumed)
        elif self.first and self.folder.part > 1:    # the part before was gone before its first checkpoint
            self.metrics.set_aside(self.folder.part, 0, 0)
        self.saver = Saver(self)
        self.log.seed(self.seed)
        setup.log_hyperparameters(self.log, config, self.schedule, self.network, samples, self.val_set.num_images,
                                  self.global_batch)

    def read_state(self):
        """The state of the checkpoint to go on from, on every rank; None for a run from the start."""
        state = None
        if self.first and self.folder.checkpoint is not None:
            state = self.folder.checkpoint.state
            line = recovery.check(state, self.config, self.ranks.size, self.samples, self.folder.checkpoint.path)
            if line:
                self.say(line)
        return json.loads(self.ranks.bytes_from_first(json.dumps(state).encode(), "state"))

    def take_up(self, resumed) -> None:
        """Weights, momenta and progress of the checkpoint whose state is `resumed`."""
        checkpoint = self.folder.checkpoint if self.first else None
        recovery.restore(self, checkpoint.arrays if self.first else None, resumed)
        self.progress = recovery.Progress(**resumed["progress"])
        self.pending_place = resumed["pending"]
        if self.first:
            scored = (self.pending_place["epoch"] - 1 if self.pending_place
                      else math.ceil(self.progress.evaluated / self.steps_per_epoch))
            self.metrics.set_aside(self.folder.part, self.progress.steps, scored)
            self.say(f"resumed after step {self.progress.steps} from {checkpoint.path}; part {self.folder.part} of the "
                     "run, which the log gives to the open division")

    # ---- on the clock

    def open_data(self) -> None:
        from ssd.data.pipeline import EvaluationLoader, TrainingLoader
        from ssd.training.score import PendingScore
        place = dict(rank=self.ranks.rank, size=self.ranks.size, device=self.device.kind,
                     device_id=self.device.index, pad_channels=self.network.input_channels == 4)
        self.watch.note("opening the data set", self.progress.steps)
        self.train_data = TrainingLoader(self.config, self.train_set, self.detector.matcher, seed=self.seed,
                                         first_step=self.progress.steps, **place)
        if self.progress.steps and not self.train_data.exact:
            self.say("decode cache: the order of images after a resume is another than without one")
        self.val_data = EvaluationLoader(self.config, self.val_set, **place)
        self.pending = PendingScore(self.val_set, self.folder.path if self.first else None, self.ranks)
        self.score_what_was_pending()

    def score_what_was_pending(self) -> None:
        place = getattr(self, "pending_place", None)
        if place is not None:
            self.log.eval_start(place["epoch"])
            rows = self.folder.checkpoint.arrays["pending"]["rows"] if self.first else np.empty((0, 7))
            self.pending.start(place["epoch"], place["step"], rows)
            self.saver.hold(place["step"])

    def close_scorer(self) -> None:
        if self.pending is not None:
            self.pending.close()

    def close_data(self) -> None:
        for part in (self.pending, self.train_data, self.val_data, self.metrics):
            if part is not None:
                part.close()

    def at_last_step(self) -> bool:
        return bool(self.config.run.max_steps) and self.progress.steps >= self.config.run.max_steps

    def train_epochs(self) -> bool:
        """Trains until the target is known to be reached (True) or the epochs are done (False)."""
        epochs, progress = self.config.training.epochs, self.progress
        for epoch in range(max(1, math.ceil(progress.steps / self.steps_per_epoch)), epochs + 1):
            end = epoch * self.steps_per_epoch
            if progress.steps < end:    # else resumed where its epoch had ended
                self.log.epoch_start(epoch)
                while progress.steps < end and not self.at_last_step():
                    if self.train_step(epoch):
                        self.log.epoch_stop(epoch)
                        return True
                self.log.epoch_stop(epoch)
            if self.evaluation_due(epoch) and progress.evaluated < progress.steps:
                # One score at a time: the one before is known before the next is asked for.
                if self.wait_for_score():
                    return True
                self.evaluate(epoch)
            if self.at_last_step():
                break
        return self.wait_for_score()

    def evaluation_due(self, epoch: int) -> bool:
        at_end = self.progress.steps == epoch * self.steps_per_epoch
        return self.at_last_step() or at_end and (epoch % self.config.evaluation.eval_every == 0
                                                  or epoch == self.config.training.epochs)

    def train_step(self, epoch: int) -> bool:
        """One step and what is due after it; whether the target is known to be reached."""
        number = self.progress.steps + 1
        place = f"epoch {epoch}, "
        self.watch.note(place + "reading data", number)
        batch = next(self.train_data)
        check = number % self.check_every == 0 or self.step.scale.window > 0
        self.watch.note(place + "training", number)
        losses = self.step.gradients(batch.images, batch.offsets, batch.classes, check)
        self.watch.note(place + "averaging gradients", number, waiting=True)
        rate = self.schedule(epoch, self.progress.steps)
        if not check or self.finite(epoch, losses, batch):
            self.watch.note(place + "updating", number)
            self.step.update(rate)
        self.progress.steps = number
        self.metrics.step(losses)
        if number % self.config.run.log_interval == 0 or number == 1:
            self.report(epoch, number, rate)
        return self.after_step(epoch)

    def finite(self, epoch: int, losses, batch) -> bool:
        """Whether the update can be made. NotFinite where training cannot go on: the state before the step is saved
        then."""
        number, finite = self.progress.steps + 1, self.step.finite()
        if self.step.scale.accepts(finite):
            if not finite:
                self.step.discard()
                self.say(f"epoch {epoch} step {number}: gradients overflow, the step is skipped "
                         f"({self.step.scale.skipped} so far); loss scale {self.step.scale.value:g} from here")
            return finite
        text, weights_good = diagnosis.explain(self, losses, batch, epoch, number)
        self.step.discard()
        if weights_good:
            self.save()
            text += self.saver.where()
        raise NotFinite(text)

    def report(self, epoch: int, number: int, rate: float) -> None:
        mean = self.ranks.mean(self.metrics.mean_losses(), "loss")
        # Seen here where steps are not checked one by one. With a loss scale that changes they are.
        if not np.isfinite(mean).all() and not self.step.scale.window:
            raise NotFinite(f"epoch {epoch}, step {number}: loss {mean.sum()}")
        line = self.metrics.report(epoch, number, self.steps_per_epoch, mean, rate, self.global_batch,
                                   self.train_data.wait_seconds)
        if not self.display.shows_steps:
            self.say(line)

    def after_step(self, epoch: int) -> bool:
        """Scores that have come, checkpoints, signals; whether the target is known to be reached."""
        stop, save, scored = self.agreement.exchange(self.wishes(may_save=True))
        if scored and self.take_score():
            return True
        if save or self.evaluation_due(epoch) or self.saver.interval.due_at(self.progress.steps, self.steps_per_epoch):
            self.save()
        if stop:
            self.leave(epoch)
        return False

    def wishes(self, may_save: bool = False):
        # That minutes are over is said once: only where the caller saves then.
        save = may_save and self.first and self.saver.interval.due_now()
        return self.signals.received is not None, save, self.pending is not None and self.pending.is_ready()

    def evaluate(self, epoch: int) -> None:
        """Detects on this rank's share of the validation images; the score comes later, off this thread."""
        from ssd.evaluation.inference import detect
        from ssd.model.weights import save_weights
        start = time.time()
        self.log.eval_start(epoch)
        self.step.average_statistics()
        share = math.ceil(self.val_set.num_images / self.ranks.size)
        turns = iter(range(math.ceil(share / self.config.evaluation.eval_batch_size)))

        def look_for_signal():
            self.watch.note(f"epoch {epoch}, evaluating", self.progress.steps)
            next(turns, None)
            if self.agreement.exchange(self.wishes())[0]:
                self.leave(epoch)
        self.inference.build()
        rows = detect(self.inference, self.val_data, self.val_set.sizes, look_for_signal)
        for _ in turns:    # ranks with a batch less take part to the end
            if self.agreement.exchange(self.wishes())[0]:
                self.leave(epoch)
        self.watch.note(f"epoch {epoch}, gathering detections", self.progress.steps, waiting=True)
        rows = self.ranks.gather(rows, "detections")
        if self.first:
            self.saver.warned(save_weights, self.network, os.path.join(self.folder.path, "weights.params"),
                              self.info)
        self.pending.start(epoch, self.progress.steps, rows)
        self.saver.hold(self.progress.steps)
        self.progress.evaluated = self.progress.steps
        self.metrics.evaluated(time.time() - start)
        self.say(f"epoch {epoch}: {len(rows)} detections on {self.val_set.num_images} images, "
                 f"{self.val_set.num_images / (time.time() - start):.1f} images/s")

    def wait_for_score(self) -> bool:
        """Waits for a score that is pending; whether it reaches the target."""
        while self.pending.epoch is not None:
            start = time.time()
            self.watch.note("waiting for the score", self.progress.steps, waiting=not self.first)
            stop, _, scored = self.agreement.settle(self.wishes())
            if scored:
                if self.take_score():
                    return True
            elif stop:
                self.leave(self.pending.epoch)
            else:
                time.sleep(0.05)
                self.metrics.evaluated(time.time() - start, again=True)
        return False

    def take_score(self) -> bool:
        """Logs a score that has come; whether it reaches the target. NoScore if it cannot be had."""
        scored = self.pending.take()
        if scored is None:
            return False
        if scored.stats is None:
            self.save()
            raise NoScore(f"epoch {scored.epoch} could not be scored: {scored.failure}{self.saver.where()}")
        epoch, stats, progress = scored.epoch, scored.stats, self.progress
        score = max(0.0, stats["AP"])
        self.log.eval_accuracy(epoch, score)
        self.log.eval_result(epoch, stats)
        self.log.eval_stop(epoch)
        self.metrics.evaluation(epoch, scored.step, stats)
        best = score > progress.best_score or not progress.best_epoch
        if best:
            progress.best_score, progress.best_epoch = score, epoch
        self.saver.scored(scored.step, score, best)
        self.say("epoch {}: ".format(epoch) + "  ".join(f"{name} {value:.4f}" for name, value in stats.items()))
        return score >= self.config.evaluation.target

    # ---- saving and leaving

    def save(self) -> None:
        self.watch.note("saving a checkpoint", self.progress.steps)
        self.saver.save()

    def leave_if_asked(self) -> None:
        """Before the clock starts, when there is nothing to save. Collective."""
        self.watch.note("getting ready", self.progress.steps)
        if self.agreement.settle(self.wishes())[0]:
            self.leave(0)

    def leave(self, epoch: int) -> None:
        """Raises Stopped on every rank, after a checkpoint."""
        names = self.ranks.gather_texts(self.signals.received or "", "signals")
        text = " and ".join(f"{name} on rank {rank}" for rank, name in enumerate(names) if name)
        if self.started is None:    # of a resumed run its checkpoint holds more: the score that is pending
            raise Stopped(f"{text}, before the first step; nothing is lost")
        self.save()
        raise Stopped(f"{text}, after step {self.progress.steps} (epoch {epoch}){self.saver.where()}")
