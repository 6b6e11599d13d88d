"""How a parameter's first values are drawn, where it is not by what kind of layer it belongs to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Normal:
    """Around 0."""

    deviation: float


@dataclass(frozen=True)
class Constant:
    value: float


@dataclass(frozen=True)
class FanIn:
    """Uniform, of variance 1 / (inputs of an output): Kaiming uniform with a = 1 (He et al.,
    2015)."""


@dataclass(frozen=True)
class TruncatedNormal:
    """Around 0, without what lies beyond two deviations."""

    deviation: float
