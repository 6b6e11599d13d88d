"""Training to the target, from the command line's settings to the last line of the log."""
from __future__ import annotations

import math
import os
import time

import numpy as np

from ssd.config import Config
from ssd.errors import UserError
from ssd.training import setup
from ssd.training.ranks import Ranks, rank_from_environment


def train(config: Config) -> int:
    """Runs `python -m ssd train`; returns the exit status: 0 when the run came to its end, target reached or not."""
    from ssd.mlperf import MLPerfLog
    setup.check_files(config)
    first = rank_from_environment() == 0
    output = setup.make_output(config) if first else None
    with MLPerfLog(os.path.join(output, "mlperf.log") if first else None, enabled=first) as log:
        run = config.run
        log.submission(run.submission_org, run.submission_platform, run.submission_division, run.submission_status)
        log.init_start()
        ranks = Ranks()
        training = Training(config, ranks, log, output)
        try:
            if ranks.is_first != first:
                raise UserError(f"the launcher says rank {rank_from_environment()}, Horovod rank {ranks.rank} of "
                                f"{ranks.size}: it was built without MPI, or another launcher's variables are set")
            training.run()
        except UserError:
            if first and training.started is None:
                setup.discard_output(output)
            raise
        finally:
            ranks.close()
    return 0


class Training:
    """A run. `run` reads from top to bottom; the other methods are its parts."""

    def __init__(self, config: Config, ranks: Ranks, log, output):
        self.config, self.ranks, self.log, self.output = config, ranks, log, output
        self.first = ranks.is_first
        self.started = None    # when the clock started [seconds since the epoch]

    def say(self, text: str) -> None:
        if self.first:
            print(text, flush=True)

    def run(self) -> None:
        self.prepare()
        self.log.init_stop()
        self.log.run_start()
        self.started = time.time()
        status = "aborted"
        try:
            self.open_data()
            if self.train_epochs():
                status = "success"
        finally:
            self.log.run_stop(status)
            self.close_data()
        self.say_result(status)

    # ---- before the clock

    def prepare(self) -> None:
        """Everything that does not touch the data set, and its one-off check (cached beside the user's files)."""
        config, ranks = self.config, self.ranks
        from ssd.data.pipeline import steps_per_epoch
        from ssd.evaluation.inference import build_inference
        from ssd.model.device import choose_device
        from ssd.model.ssd import build_model
        from ssd.training.metrics import Metrics
        from ssd.training.schedule import build_schedule
        from ssd.training.step import TrainingStep, dry_run

        self.device = choose_device(config, ranks.local_rank)
        self.train_set, self.val_set = self.load_datasets()
        self.clear_cache()
        self.global_batch = config.training.batch_size * ranks.size
        samples = len(self.train_set.images_with_boxes)
        if samples < self.global_batch:
            raise UserError(f"--batch-size {config.training.batch_size}: {ranks.size} ranks take "
                            f"{self.global_batch} images a step, {self.train_set.path} has {samples} with a box")
        self.steps_per_epoch = steps_per_epoch(samples, self.global_batch)
        self.schedule = build_schedule(config.training, self.global_batch, samples)

        seed = config.run.seed if config.run.seed >= 0 else int.from_bytes(os.urandom(3), "little")
        self.seed = int(ranks.from_first(seed, "seed"))
        self.config = config = config.with_values(seed=self.seed)
        if self.first:
            setup.save_recipe(config, os.path.join(self.output, "recipe.yaml"))
            self.say(setup.describe(config, self.device, ranks.size))

        self.network = build_model(config)
        self.initialize_weights()
        self.step = TrainingStep(self.network, config, ranks)
        self.inference, self.boxes = build_inference(config, self.network, self.device)
        self.metrics = Metrics(self.output if self.first else None)
        dry_run(self.step, self.inference, self.network, config, len(self.boxes), self.device.context)
        self.log_hyperparameters(samples)

    def load_datasets(self):
        """Rank 0 checks, the others then read its result; a data set that is refused ends every rank."""
        from ssd.data.locate import load_dataset
        failure = None
        for turn in ("first", "others"):
            if self.first == (turn == "first") and failure is None:
                try:
                    sets = load_dataset(self.config, "train"), load_dataset(self.config, "val")
                    if sets[0].category_names != sets[1].category_names or \
                            sets[0].category_ids != sets[1].category_ids:
                        raise UserError(f"{sets[1].path}: its categories are not those of {sets[0].path}")
                except UserError as error:
                    failure = error
            failed = self.ranks.mean(np.array([failure is not None], float), f"data checked by {turn}")[0]
            if failed:
                raise failure or UserError("another rank refused the data set")
        return sets

    def clear_cache(self) -> None:
        """Drops the file cache of every node, after the check above may have filled it, and logs what was dropped."""
        if not self.config.run.clear_cache:
            return
        from ssd.page_cache import drop_caches
        dropped = drop_caches([self.config.data.data_dir]) if self.ranks.local_rank == 0 else "by another rank"
        if self.ranks.mean(np.array([bool(dropped)], float), "file cache dropped")[0] == 1:
            self.log.cache_clear(dropped)
        else:
            self.say("file cache: nothing could be dropped on a node, no cache_clear is logged")

    def initialize_weights(self) -> None:
        from ssd.model.initialization import initialize, load_backbone
        run = self.config.run
        initialize(self.network, self.seed, self.device.context)
        if run.pretrained_backbone:
            from ssd.model.backbone_onnx import read_backbone
            load_backbone(self.network, read_backbone(run.pretrained_backbone, self.say), run.pretrained_backbone)
            self.say(f"backbone: {run.pretrained_backbone}")
        if run.weights:
            from ssd.model.weights import load_weights
            load_weights(self.network, run.weights)
            self.say(f"weights: {run.weights}")
        if not (run.pretrained_backbone or run.weights):
            self.say("backbone: random weights, as no --pretrained-backbone is given")
        self.ranks.broadcast_parameters(self.network.collect_params())

    def log_hyperparameters(self, samples: int) -> None:
        training, schedule = self.config.training, self.schedule
        self.log.seed(self.seed)
        self.log.hyperparameters(
            train_samples=samples, eval_samples=self.val_set.num_images, global_batch_size=self.global_batch,
            gradient_accumulation_steps=1, model_bn_span=training.batch_size,
            opt_base_learning_rate=schedule.peak, opt_weight_decay=training.weight_decay,
            opt_learning_rate_warmup_steps=schedule.warmup_steps,
            opt_learning_rate_warmup_factor=schedule.warmup_factor,
            opt_learning_rate_decay_boundary_epochs=list(training.decay_epochs),
            max_samples=self.config.augmentation.crop_attempts)
        self.log.weights_initialization(name for name, parameter in self.network.collect_params().items()
                                        if parameter.grad_req != "null")

    # ---- on the clock

    def open_data(self) -> None:
        from ssd.data.pipeline import EvaluationLoader, TrainingLoader
        from ssd.evaluation.pending import PendingScore
        from ssd.model.boxes import cxcywh_to_ltrb
        self.train_data = self.val_data = self.pending = None
        place = dict(rank=self.ranks.rank, size=self.ranks.size, device=self.device.kind,
                     device_id=self.device.index, pad_channels=self.network.input_channels == 4)
        self.train_data = TrainingLoader(self.config, self.train_set, cxcywh_to_ltrb(self.boxes),
                                         seed=self.seed, **place)
        self.val_data = EvaluationLoader(self.config, self.val_set, **place)
        self.pending = PendingScore(self.val_set, self.output, self.ranks)

    def close_data(self) -> None:
        for part in (self.pending, self.train_data, self.val_data):
            if part is not None:
                part.close()

    def train_epochs(self) -> bool:
        """Trains until the target is known to be reached (True) or the epochs are done (False)."""
        config = self.config
        self.steps = 0
        for epoch in range(1, config.training.epochs + 1):
            self.log.epoch_start(epoch)
            for _ in range(self.steps_per_epoch):
                self.train_step(epoch)
                if self.target_reached():
                    self.log.epoch_stop(epoch)
                    return True
                if config.run.max_steps and self.steps >= config.run.max_steps:
                    break
            self.log.epoch_stop(epoch)
            last = epoch == config.training.epochs or self.steps == config.run.max_steps
            if epoch % config.evaluation.eval_every == 0 or last:
                # One score at a time: the one before is known before the next is asked for.
                if self.target_reached(wait=True):
                    return True
                self.evaluate(epoch)
            if last:
                break
        return self.target_reached(wait=True)

    def train_step(self, epoch: int) -> None:
        batch = next(self.train_data)
        rate = self.schedule(epoch, self.steps)
        losses = self.step(batch.images, batch.offsets, batch.classes, rate)
        self.steps += 1
        self.metrics.step(losses)
        interval = self.config.run.log_interval
        if self.steps % interval == 0 or self.steps == 1:
            mean = self.ranks.mean(self.metrics.mean_losses(), "loss")
            if not all(math.isfinite(value) for value in mean):
                raise FloatingPointError(f"loss {mean.sum()} at epoch {epoch}, step {self.steps}: not finite")
            self.say(self.metrics.report(epoch, self.steps, self.steps_per_epoch, mean, rate, self.global_batch,
                                         self.train_data.wait_seconds))

    def evaluate(self, epoch: int) -> None:
        """Detects on this rank's share of the validation images; the score comes later, off this thread."""
        from ssd.evaluation.inference import detect
        from ssd.model.weights import save_weights
        start = time.time()
        self.log.eval_start(epoch)
        statistics = [parameter.data(self.device.context) for name, parameter in
                      sorted(self.network.collect_params().items()) if "_running_" in name]
        self.ranks.average_in_place(statistics, "batch norm")
        rows = detect(self.inference, self.val_data, self.val_set.sizes)
        rows = self.ranks.gather(rows, "detections")
        if self.first:
            save_weights(self.network, os.path.join(self.output, "weights.params"))
        self.pending.start(epoch, rows)
        self.metrics.paused(time.time() - start)
        self.say(f"epoch {epoch}: {len(rows)} detections on {self.val_set.num_images} images, "
                 f"{self.val_set.num_images / (time.time() - start):.1f} images/s")

    def target_reached(self, wait: bool = False) -> bool:
        """Whether a score of at least the target is known, on every rank alike."""
        scored = self.pending.poll(wait)
        if scored is None:
            return False
        epoch, stats = scored
        score = max(0.0, stats["AP"])
        self.log.eval_accuracy(epoch, score)
        self.log.eval_result(epoch, stats)
        self.log.eval_stop(epoch)
        self.metrics.evaluation(epoch, stats)
        self.best = max(score, getattr(self, "best", 0.0))
        self.say("epoch {}: ".format(epoch) + "  ".join(f"{name} {value:.4f}" for name, value in stats.items()))
        return score >= self.config.evaluation.target

    def say_result(self, status: str) -> None:
        seconds = time.time() - self.started
        word = "reached" if status == "success" else "not reached"
        self.say(f"target {self.config.evaluation.target} {word}: best mAP {getattr(self, 'best', 0.0):.4f} after "
                 f"{self.steps} steps of {self.global_batch}, {seconds:.1f} s; run folder {self.output}")
        if self.first:
            self.metrics.summary(dict(status=status, target=self.config.evaluation.target,
                                      best_map=getattr(self, "best", 0.0), seconds=round(seconds, 2),
                                      steps=self.steps, images=self.steps * self.global_batch, seed=self.seed,
                                      ranks=self.ranks.size))
