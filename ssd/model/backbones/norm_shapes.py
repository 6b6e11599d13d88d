"""Names and shapes of layers in weight files."""

from __future__ import annotations

from typing import Dict, Tuple


def norm_shapes(name: str, channels: int) -> Dict[str, Tuple[int, ...]]:
    """The four vectors of a BatchNorm."""
    return {
        f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")
    }
