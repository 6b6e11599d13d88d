"""The factor on the loss that keeps float16 gradients above their smallest number."""
from __future__ import annotations

from typing import Dict


class LossScale:
    """`value` doubles after `window` steps without an overflow and halves at each overflow, whose step is skipped
    and counted. `window` 0: the value stays, and an overflow is an error like any other.

    As in PyTorch's GradScaler and MXNet's amp.LossScaler.
    """

    def __init__(self, value: float, window: int):
        self.value, self.window = float(value), window
        self.clean_steps = self.skipped = 0

    def accepts(self, finite: bool) -> bool:
        """Takes note of a step's gradients; whether training can go on: not with a static scale, nor where a scale
        of 1 overflows, since then it is not for lack of range."""
        if finite:
            self.clean_steps += 1
            if self.window and self.clean_steps == self.window:
                self.value, self.clean_steps = self.value * 2, 0
            return True
        if not self.window or self.value <= 1:
            return False
        self.value, self.clean_steps = max(1.0, self.value / 2), 0
        self.skipped += 1
        return True

    def state(self) -> Dict[str, float]:
        return dict(value=self.value, clean_steps=self.clean_steps, skipped=self.skipped)

    def restore(self, state: Dict[str, float]) -> None:
        self.value, self.clean_steps = float(state["value"]), int(state["clean_steps"])
        self.skipped = int(state["skipped"])
