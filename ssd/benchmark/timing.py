"""Times: taken so that nothing waits for them, and what is said of many of them."""

from __future__ import annotations

import resource
import time
from typing import Callable, Dict, List, Sequence

import numpy as np


def spread(values: Sequence[float]) -> Dict[str, float]:
    """Median, quartiles, ends, mean and number of `values` (at least one)."""
    values = np.asarray(values, np.float64)
    least, first, median, third, most = np.percentile(values, [0, 25, 50, 75, 100]).tolist()
    return dict(
        median=median,
        quartile_1=first,
        quartile_3=third,
        minimum=least,
        maximum=most,
        mean=float(values.mean()),
        count=len(values),
    )


def steady_state(step: Callable[[], object], steps: int, warmup: int) -> np.ndarray:
    """Seconds of each of `steps` calls of `step` after `warmup` others, (steps,).

    `step` queues its work and returns an NDArray that is known when the work is well under way. A
    step ends when it is queued and the array of the step before is known: the device is never
    without work because of the clock, nor is it ever more than a step behind it. Where the first
    step is measured (no warm-up), its end is early.
    """
    ends, waiting = [time.perf_counter()], None
    for _ in range(warmup + steps):
        known = step()
        if waiting is not None:
            waiting.wait_to_read()
        ends.append(time.perf_counter())
        waiting = known
    waiting.wait_to_read()
    return np.diff(ends)[warmup:]


def times_of(work: Callable[[], object], repeats: int, warmup: int = 0) -> np.ndarray:
    """Seconds of each of `repeats` calls after `warmup` others, (repeats,); `work` waits for what
    it does."""
    seconds = []
    for _ in range(warmup + repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return np.array(seconds[warmup:])


class Laps:
    """The parts of a step, one after the other, with a wait for all of MXNet's work at the end of
    each."""

    def __init__(self):
        self.seconds: Dict[str, List[float]] = {}

    def start(self) -> None:
        self._wait()
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """The part since `start` or the last lap was `name`."""
        self._wait()
        now = time.perf_counter()
        self.seconds.setdefault(name, []).append(now - self._last)
        self._last = now

    @staticmethod
    def _wait() -> None:
        import mxnet as mx

        mx.nd.waitall()


def as_parts(seconds: Dict[str, Sequence[float]]) -> List[dict]:
    """Name, seconds (a spread) and share of the sum of the medians, of each part."""
    spreads = {name: spread(values) for name, values in seconds.items()}
    total = sum(one["median"] for one in spreads.values())
    return [
        dict(name=name, seconds=one, share=one["median"] / total if total else 0.0)
        for name, one in spreads.items()
    ]


def peak_memory() -> int:
    """The most main memory that this process has held so far [bytes, resident]."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )  # of the parent too, after a fork


def gpu_memory(device) -> int:
    """Bytes of the GPU's memory in use, by everybody; 0 on a CPU."""
    if device.kind != "gpu":
        return 0
    import mxnet as mx

    free, total = mx.context.gpu_memory_info(device.index)
    return total - free
