"""How long a run will still take, as far as that can be said."""

from __future__ import annotations

import math
from typing import NamedTuple, Optional, Sequence, Tuple

from ssd.report import published_run


class Course(NamedTuple):
    """When a run evaluates and ends. Steps and epochs count from 1."""

    steps_per_epoch: int
    epochs: int
    eval_every: int
    max_steps: int = 0  # 0: none

    @property
    def last_step(self) -> int:
        steps = self.epochs * self.steps_per_epoch
        return min(self.max_steps, steps) if self.max_steps else steps

    def step_of(self, epoch: int) -> int:
        """The step after which an epoch's weights are evaluated, if they are."""
        return min(epoch * self.steps_per_epoch, self.last_step)

    def evaluation_at(self, epoch: float) -> int:
        """The first epoch from `epoch` on that is evaluated (the last one always is)."""
        last = math.ceil(self.last_step / self.steps_per_epoch)
        return min(max(1, math.ceil(epoch / self.eval_every)) * self.eval_every, last)

    def next_evaluation(self, step: int) -> int:
        """The epoch that is evaluated next after `step` steps."""
        return self.evaluation_at(step // self.steps_per_epoch + 1)

    def evaluations(self, step: int, goal: int) -> int:
        """How many evaluations start after step `step` + 1 and until step `goal`."""
        count = (
            goal // self.steps_per_epoch // self.eval_every
            - step // self.steps_per_epoch // self.eval_every
        )
        at_end = goal == self.last_step and goal % (self.steps_per_epoch * self.eval_every) != 0
        return count + (at_end and step < goal)


class Pace(NamedTuple):
    """Means of a run so far, None: not known yet."""

    step: Optional[float] = None  # seconds of training, waiting for data included
    evaluation: Optional[float] = None  # seconds, of the training loop


def seconds_until(course: Course, pace: Pace, step: int, goal: int) -> Optional[float]:
    """Seconds from now, after `step` steps, until the evaluation after step `goal` is done; None if
    unknown."""
    if pace.step is None or pace.evaluation is None:
        return None
    return max(0, goal - step) * pace.step + course.evaluations(step, goal) * pace.evaluation


def target_epoch(
    course: Course, scores: Sequence[Tuple[int, float]], target: float, as_published: bool
) -> Tuple[Optional[int], str]:
    """The epoch whose evaluation may reach the target, None if nothing can be said, and what that
    rests on.

    scores: (epoch, mAP in [0, 1]) of the evaluations so far. as_published: the run is the one of
    ssd.report.published_run. Else it is the line through the last two scores, which is too hopeful
    where the curve flattens and too gloomy just before the learning rate falls: a guess, and said
    to be one.
    """
    done = scores[-1][0] if scores else 0
    if as_published:
        epoch = published_run.epoch_reaching(target)
        if epoch is not None and course.evaluation_at(epoch) > done:
            return course.evaluation_at(epoch), "as in the published run"
    # A run that ended in an epoch and went on has two scores of it.
    if len(scores) < 2 or scores[-2][0] == scores[-1][0]:
        return None, "unknown before the second evaluation"
    (before, low), (last, high) = scores[-2:]
    slope = (high - low) / (last - before)
    if slope <= 0:
        return None, "unknown: the last evaluation brought no gain"
    epoch = course.evaluation_at(max(last + (target - high) / slope, last + 1))
    if last + (target - high) / slope > course.last_step / course.steps_per_epoch:
        return None, "not in this run, if mAP rises as between the last two evaluations"
    return epoch, "if mAP rises as between the last two evaluations"


def about(seconds: float) -> str:
    """A duration without false precision: 35 s, 12 min, 1 h 20 min."""
    if seconds < 97.5:
        return f"{5 * round(seconds / 5):d} s" if seconds >= 7.5 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    minutes = 5 * round(minutes / 5)
    return (
        f"{minutes // 60} h {minutes % 60} min" if minutes < 1440 else f"{minutes / 1440:.1f} days"
    )
