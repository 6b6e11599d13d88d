"""Statistics of times, and timing a loop without stalling it."""

import time

import pytest

from ssd.benchmark.timing import as_parts, spread, steady_state, times_of


def test_spread():
    told = spread([4.0, 1.0, 2.0, 3.0, 10.0])
    assert told == dict(
        median=3, quartile_1=2, quartile_3=4, minimum=1, maximum=10, mean=4, count=5
    )


def test_shares_of_medians():
    parts = as_parts({"a": [1.0, 3.0, 100.0], "b": [1.0, 1.0, 1.0]})
    assert [(part["name"], part["share"]) for part in parts] == [("a", 0.75), ("b", 0.25)]


class Clock:
    """A device on which a step takes `length` seconds, and a clock that only waiting and queueing
    move."""

    def __init__(self, length, queueing):
        self.now, self.done, self.length, self.queueing = 0.0, 0.0, length, queueing

    def step(self):
        self.now += self.queueing
        self.done = max(self.done, self.now) + self.length
        return Known(self, self.done)


class Known:
    def __init__(self, clock, when):
        self.clock, self.when = clock, when

    def wait_to_read(self):
        self.clock.now = max(self.clock.now, self.when)


@pytest.mark.parametrize("length, queueing, wanted", [(2.0, 0.5, 2.0), (0.5, 2.0, 2.0)])
def test_timing_does_not_slow_a_step(monkeypatch, length, queueing, wanted):
    """A step takes as long as the slower of device and loop, not their sum."""
    clock = Clock(length, queueing)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    assert steady_state(clock.step, steps=5, warmup=2).tolist() == [wanted] * 5
    assert clock.now == pytest.approx(7 * wanted + min(length, queueing)), "all is done at the end"


def test_times_of(monkeypatch):
    clock = Clock(0.0, 3.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    assert times_of(clock.step, 2, warmup=3).tolist() == [3, 3]
    assert clock.now == 15
