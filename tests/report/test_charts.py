"""Charts of many classes stay small enough for a page."""

import re

import numpy as np
import pytest

from ssd.evaluation.confusion import ConfusionCounts
from ssd.report import charts, evaluation_sections


class Names:
    """The part of an evaluation that the confusion section reads."""

    def __init__(self, count):
        self.category_names = [f"class {number}" for number in range(count)]


def section(matrix):
    return evaluation_sections.confusion(
        Names(len(matrix) - 1), ConfusionCounts(0.5, matrix, *[np.zeros(1, np.int64)] * 3)
    )


@pytest.mark.parametrize("classes", [80, 300])
def test_cells_of_a_confusion_matrix(classes):
    """All of them up to COCO's 80 classes; of more the diagonal and the largest, and the page says
    so."""
    random = np.random.default_rng(0)
    matrix = random.integers(1, 1000, (classes + 1, classes + 1))
    matrix[3, 3], matrix[5, 5], matrix[4, 7], matrix[9, 2] = 0, 1, 1000, 1000
    drawn, text = charts.drawn_cells(matrix), section(matrix)
    left_out = (matrix > 0).sum() - drawn.sum()
    assert text.count('<rect class="right"') == np.trace(drawn) == classes, "all but the empty one"
    assert (
        text.count('<rect class="wrong"') + classes
        == drawn.sum()
        == min((classes + 1) ** 2 - 1, charts.MOST_CELLS)
    )
    beside = ~np.eye(classes + 1, dtype=bool)
    assert matrix[drawn & beside].min() >= matrix[~drawn & beside & (matrix > 0)].max(initial=0)
    assert ("off-diagonal" in text) == (left_out > 0)
    assert (f"The {left_out:,} smallest off-diagonal cells" in text) == (left_out > 0)


def test_names_that_begin_alike_stand_apart():
    names = [f"vehicle registration plate of kind {number}" for number in range(3)]
    chart = charts.matrix_chart(np.eye(4, dtype=np.int64), names)
    shown = re.findall(r"</title>([^<]+)</text>", chart)
    assert len(shown) == 2 * 4 and len(set(shown)) == 4 and max(map(len, shown)) <= 24
    assert all(chart.count(f"<title>{name}</title>") == 2 for name in names), (
        "in full under the pointer"
    )


def test_most_often_confused():
    """The ten largest, the first among equals; none with count 0."""
    matrix = np.random.default_rng(1).integers(0, 4, (7, 7))
    pairs = [
        (-matrix[row, column], row, column)
        for row in range(6)
        for column in range(6)
        if row != column and matrix[row, column]
    ]
    found = re.findall(r"<tr><td>class (\d)</td><td>class (\d)</td><td[^>]*>(\d)<", section(matrix))
    assert [tuple(map(int, one)) for one in found] == [
        (row, column, -number) for number, row, column in sorted(pairs)[:10]
    ]
    matrix[:] = np.diag(np.arange(7))
    matrix[2, 5] = 3
    assert section(matrix).count("<td>class") == 2
    matrix[2, 5] = 0
    assert "Most often confused" not in section(matrix)
