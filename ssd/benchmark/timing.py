"""Measures times without stalling the device, and summarises them."""

from __future__ import annotations

import resource
import time
from typing import Callable, Dict, List, Sequence

import numpy as np


def spread(values: Sequence[float]) -> Dict[str, float]:
    """Median, quartiles, minimum, maximum, mean and number of `values` (at least one)."""
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

    `step` queues its work and returns an NDArray that is ready when the work is well under way. A
    step ends when it is queued and the array of the step before is ready: so measuring never leaves
    the device idle, and the device is never more than one step behind. Without warm-up, the first
    step ends too early.
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
    """Seconds of each of `repeats` calls after `warmup` others, (repeats,); `work` must wait for
    its result."""
    seconds = []
    for _ in range(warmup + repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return np.array(seconds[warmup:])


class Laps:
    """Times of consecutive parts of a step; waits for all of MXNet's work at the end of each."""

    def __init__(self):
        self.seconds: Dict[str, List[float]] = {}

    def start(self) -> None:
        self._wait()
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End the part `name`, which began at `start` or the last lap."""
        self._wait()
        now = time.perf_counter()
        self.seconds.setdefault(name, []).append(now - self._last)
        self._last = now

    @staticmethod
    def _wait() -> None:
        import mxnet as mx

        mx.nd.waitall()


def as_parts(seconds: Dict[str, Sequence[float]]) -> List[dict]:
    """Name, seconds (a spread) and share of the sum of medians for each part."""
    spreads = {name: spread(values) for name, values in seconds.items()}
    total = sum(one["median"] for one in spreads.values())
    return [
        dict(name=name, seconds=one, share=one["median"] / total if total else 0.0)
        for name, one in spreads.items()
    ]


def peak_memory() -> int:
    """Peak resident memory of this process [bytes]."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )  # of the parent too, after a fork


def gpu_memory(device) -> int:
    """Bytes of GPU memory in use by all processes; 0 on a CPU."""
    if device.kind != "gpu":
        return 0
    import mxnet as mx

    free, total = mx.context.gpu_memory_info(device.index)
    return total - free
