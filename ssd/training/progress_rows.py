"""The text of the progress display."""

from __future__ import annotations

import math
from typing import List, Optional, Tuple

from ssd.report.published_run import is_same_task
from ssd.training.estimates import (
    EvaluationPlan,
    MeanSeconds,
    rounded_duration,
    seconds_until,
    target_epoch,
)
from ssd.training.state import RunState

# The watchdog's notes within a step.
STEP_PHASES = ("reading data", "training", "averaging gradients", "updating")


def evaluation_plan(run: RunState) -> EvaluationPlan:
    config = run.config
    return EvaluationPlan(
        run.steps_per_epoch,
        config.training.epochs,
        config.evaluation.eval_every,
        config.run.max_steps,
    )


def format_clock(seconds: float) -> str:
    """12:05 or 1:02:05"""
    hours, rest = divmod(int(seconds), 3600)
    return (f"{hours}:{rest // 60:02d}" if hours else f"{rest // 60}") + f":{rest % 60:02d}"


def phase_name(noted: str) -> str:
    """What the training loop is doing, according to the watchdog's last note."""
    phase = noted.split(", ")[-1]
    return "training" if phase in STEP_PHASES else phase


def progress_rows(run: RunState) -> List[Tuple[str, str]]:
    """(name, text) of each row below the progress bar, from numbers that are known already: does
    not wait for the network."""
    metrics, target = run.metrics, run.config.evaluation.target
    plan, step, means = evaluation_plan(run), run.progress.steps, metrics.mean_seconds()
    return [
        (f"loss at step {metrics.last['step']}" if metrics.last else "loss", _losses(metrics)),
        ("speed", _speed(metrics)),
        ("time", _time_shares(metrics)),
        ("mAP", _scores(run)),
        ("next evaluation", _next_evaluation(plan, means, step)),
        (f"target {target:g}", _target(run, plan, means, step)),
        ("end", _end(plan, means, step)),
    ]


def _losses(metrics) -> str:
    last = metrics.last
    if last is None:
        return "after the first steps"
    total = last["class_loss"] + last["offset_loss"]
    return (
        f"{total:.3f} = classes {last['class_loss']:.3f} + offsets {last['offset_loss']:.3f}   "
        f"learning rate {last['learning_rate']:.3g}"
    )


def _speed(metrics) -> str:
    if metrics.last is None or not metrics.last["images_per_second"]:
        return "not measured yet"
    return f"{metrics.last['images_per_second']:.1f} images/s"


def _time_shares(metrics) -> str:
    total, waiting, evaluating, locked = metrics.split
    if metrics.mean_seconds().step is None:
        return "not measured yet"
    shares = (
        ("training", total - waiting - evaluating - locked),
        ("waiting for data", waiting),
        ("Python's lock", locked),
        ("evaluation", evaluating),
    )
    return "   ".join(f"{name} {100 * max(0.0, part) / total:.0f} %" for name, part in shares)


def _scores(run: RunState) -> str:
    scores, progress = run.metrics.scores, run.progress
    pending = run.pending.epoch if run.pending is not None else None
    parts = []
    if scores:
        is_best = scores[-1][0] == progress.best_epoch
        parts.append(
            f"{scores[-1][1]:.4f} (epoch {scores[-1][0]})"
            + (", the best so far" if is_best else "")
        )
    if progress.best_epoch and not (scores and is_best):
        parts.append(f"best {progress.best_score:.4f} (epoch {progress.best_epoch})")
    if pending is not None:
        parts.append(f"epoch {pending} is being scored")
    if scores and run.metrics.scored is not None:
        parts.append(f"on {run.metrics.scored}")
    return "   ".join(parts) or "none yet"


def _next_evaluation(plan: EvaluationPlan, means: MeanSeconds, step: int) -> str:
    if step >= plan.last_step:
        return "none"
    epoch = plan.next_evaluation(step)
    steps = plan.step_of(epoch) - step
    when = (
        f"in {rounded_duration(steps * means.step)}"
        if means.step is not None
        else f"in {steps} steps"
    )
    return f"{when}, after epoch {epoch}"


def _target(run: RunState, plan: EvaluationPlan, means: MeanSeconds, step: int) -> str:
    config = run.config
    if run.metrics.scores and run.progress.best_score >= config.evaluation.target:
        return "reached"
    same = is_same_task(config, len(run.train_set.images_with_boxes))
    epoch, basis = target_epoch(plan, run.metrics.scores, config.evaluation.target, same)
    seconds = _seconds(plan, means, step, epoch)
    if seconds is None:
        return basis if epoch is None else f"after epoch {epoch}, {basis}"
    return f"in about {rounded_duration(seconds)} (epoch {epoch}), {basis}"


def _seconds(
    plan: EvaluationPlan, means: MeanSeconds, step: int, epoch: Optional[int]
) -> Optional[float]:
    return None if epoch is None else seconds_until(plan, means, step, plan.step_of(epoch))


def _end(plan: EvaluationPlan, means: MeanSeconds, step: int) -> str:
    epoch = math.ceil(plan.last_step / plan.steps_per_epoch)
    where = f"step {plan.last_step}" if plan.max_steps == plan.last_step else f"epoch {epoch}"
    if means.step is None:
        return f"at the latest after {where}"
    seconds = seconds_until(plan, means, step, plan.last_step)
    if seconds is None:
        count = plan.evaluations(step, plan.last_step)
        return (
            f"at the latest in {rounded_duration((plan.last_step - step) * means.step)} ({where}) "
            f"and {count} evaluation{'s' if count != 1 else ''}"
        )
    return f"at the latest in {rounded_duration(seconds)} ({where})"
