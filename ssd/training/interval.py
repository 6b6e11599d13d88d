"""How often checkpoints are saved."""

from __future__ import annotations

import re
import time

from ssd.errors import UserError

_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(steps?|epochs?|minutes?|min)")


class SaveInterval:
    """When checkpoints are due: every '100steps', '2epochs' or '10minutes', or 'never'."""

    def __init__(self, text: str, clock=time.monotonic):
        """UserError for any other form of `text`."""
        self.every, self.unit, self._clock = 0.0, "never", clock
        if text != "never":
            match = _FORM.fullmatch(text.strip())
            self.every = float(match.group(1)) if match else 0
            self.unit = match.group(2)[:3] if match else ""
            if self.every <= 0 or (self.unit != "min" and self.every != int(self.every)):
                raise UserError(
                    f"--save-interval {text}: not like 100steps, 2epochs, 10minutes or never"
                )
        self._last, self._reported = clock(), False

    @property
    def never(self) -> bool:
        return self.unit == "never"

    def due_at(self, step: int, steps_per_epoch: int) -> bool:
        """Whether one is due after `step` (from 1), if the interval is in steps or epochs: the same
        on every rank."""
        steps = {"ste": 1, "epo": steps_per_epoch}.get(self.unit)
        return steps is not None and step % int(self.every * steps) == 0

    def due_now(self) -> bool:
        """Whether one is due now, by this rank's clock, if the interval is in minutes. True only
        once before the next `saved`."""
        due = (
            self.unit == "min"
            and not self._reported
            and self._clock() - self._last >= 60 * self.every
        )
        self._reported = self._reported or due
        return due

    def saved(self) -> None:
        self._last, self._reported = self._clock(), False
