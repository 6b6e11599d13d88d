"""Waiting for other processes in tests."""

import time

SLOW_MACHINE = 20  # seconds, for processes that start while others compute


def wait_until(condition, what: str = "", seconds: float = SLOW_MACHINE, pause: float = 0.005):
    """The first true result of `condition()`, which is called every `pause` seconds; fails after
    `seconds`. what: the name of the condition, for the failure."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"still waiting after {seconds} s: {what}"
        time.sleep(pause)
