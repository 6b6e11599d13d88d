"""How a parameter's initial values are drawn, where that does not follow from its kind of layer."""

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
