"""Estimates of the remaining time of a run."""

from __future__ import annotations

import math
from typing import NamedTuple, Optional, Sequence, Tuple

from ssd.report import published_run


class EvaluationPlan(NamedTuple):
    """When a run evaluates and when it ends. Steps and epochs count from 1."""

    steps_per_epoch: int
    epochs: int
    eval_every: int
    max_steps: int = 0  # 0: none

    @property
    def last_step(self) -> int:
        steps = self.epochs * self.steps_per_epoch
        return min(self.max_steps, steps) if self.max_steps else steps

    def step_of(self, epoch: int) -> int:
        """The last step of an epoch, after which it is evaluated if it is."""
        return min(epoch * self.steps_per_epoch, self.last_step)

    def evaluation_at(self, epoch: float) -> int:
        """The first epoch not before `epoch` that is evaluated (the last epoch always is)."""
        last = math.ceil(self.last_step / self.steps_per_epoch)
        return min(max(1, math.ceil(epoch / self.eval_every)) * self.eval_every, last)

    def next_evaluation(self, step: int) -> int:
        """The epoch that is evaluated next after `step` steps."""
        return self.evaluation_at(step // self.steps_per_epoch + 1)

    def evaluations(self, step: int, goal: int) -> int:
        """The number of evaluations that are made after one of the steps `step` + 1 to `goal`."""
        count = (
            goal // self.steps_per_epoch // self.eval_every
            - step // self.steps_per_epoch // self.eval_every
        )
        at_end = goal == self.last_step and goal % (self.steps_per_epoch * self.eval_every) != 0
        return count + (at_end and step < goal)


class MeanSeconds(NamedTuple):
    """Mean times of a run so far [s]; None: not known yet."""

    step: Optional[float] = None  # including the wait for data
    evaluation: Optional[float] = None  # as far as the training loop waits for it


def seconds_until(
    plan: EvaluationPlan, means: MeanSeconds, step: int, goal: int
) -> Optional[float]:
    """Seconds from step `step` until the evaluation after step `goal` is done; None if unknown."""
    if means.step is None or means.evaluation is None:
        return None
    return max(0, goal - step) * means.step + plan.evaluations(step, goal) * means.evaluation


def target_epoch(
    plan: EvaluationPlan, scores: Sequence[Tuple[int, float]], target: float, as_published: bool
) -> Tuple[Optional[int], str]:
    """The epoch whose evaluation may reach the target, None if unknown, and the basis of the
    estimate.

    scores: (epoch, mAP in [0, 1]) of the evaluations so far. as_published: the run is the one of
    ssd.report.published_run. If not, we extend the line through the last two scores, which is too
    optimistic where the curve flattens and too pessimistic just before the learning rate drops: a
    guess, and labelled as one.
    """
    done = scores[-1][0] if scores else 0
    if as_published:
        epoch = published_run.epoch_reaching(target)
        if epoch is not None and plan.evaluation_at(epoch) > done:
            return plan.evaluation_at(epoch), "as in the published run"
    # A run that was stopped and resumed in an epoch has two scores of it.
    if len(scores) < 2 or scores[-2][0] == scores[-1][0]:
        return None, "unknown before the second evaluation"
    (before, low), (last, high) = scores[-2:]
    slope = (high - low) / (last - before)
    if slope <= 0:
        return None, "unknown: the last evaluation brought no gain"
    epoch = plan.evaluation_at(max(last + (target - high) / slope, last + 1))
    if last + (target - high) / slope > plan.last_step / plan.steps_per_epoch:
        return None, "not in this run, if mAP rises as between the last two evaluations"
    return epoch, "if mAP rises as between the last two evaluations"


def rounded_duration(seconds: float) -> str:
    """A duration with few digits: 35 s, 12 min, 1 h 20 min."""
    if seconds < 97.5:
        return f"{5 * round(seconds / 5):d} s" if seconds >= 7.5 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    minutes = 5 * round(minutes / 5)
    return (
        f"{minutes // 60} h {minutes % 60} min" if minutes < 1440 else f"{minutes / 1440:.1f} days"
    )
