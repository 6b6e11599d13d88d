"""Several weights side by side."""

import numpy as np
import pytest
from PIL import Image

from ssd.evaluation.scoring import STAT_NAMES
from ssd.evaluation.sweep import draw_sweep, format_sweep


@pytest.mark.parametrize("count", [2, 30])
def test_long_names_leave_the_curve_its_room(tmp_path, count):
    name = "a-run-with-a-name-that-nobody-would-type-again-twice-{}/weights.params"
    results = [
        dict(dict.fromkeys(STAT_NAMES, 0.9 * one / count), weights=f"runs/{name.format(one)}")
        for one in range(count)
    ]
    draw_sweep(str(tmp_path / "sweep.png"), results)
    with Image.open(tmp_path / "sweep.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    line = np.abs(pixels - (0x1B, 0x49, 0x65)).max(axis=2) < 8
    high, wide = (np.ptp(np.flatnonzero(line.any(axis=axis))) for axis in (1, 0))
    assert high > 0.4 * pixels.shape[0] and wide > 0.7 * pixels.shape[1]
    left, right = pixels[:, :3], pixels[:, -3:]
    assert (left == 255).all() and (right == 255).all(), "nothing is cut off"


def test_columns_of_wide_letters():
    names = "\u4ea4\u901a\u4fe1", "mobile"
    rows = format_sweep(
        [dict(dict.fromkeys(STAT_NAMES, 0.5), weights=f"runs/{name}") for name in names]
    ).splitlines()
    assert rows[1].index("0.5000") == rows[2].index("0.5000") - 3, "of six columns both"
