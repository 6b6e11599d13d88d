"""Charts as SVG text for a page: the page's style sheet colours them, and titles show each value
on hover."""

from __future__ import annotations

from html import escape
from typing import List, Sequence, Tuple

import numpy as np

from ssd.fonts import shortened

SMALL_MATRIX = 16  # most classes for which the cells of a matrix show their numbers
MOST_CELLS = 81**2  # cells drawn at most, 155 bytes each: all of COCO's


def precision_recall_chart(
    curves: Sequence[Tuple[str, str, np.ndarray]],
    recalls: np.ndarray,
    width: int = 640,
    height: int = 400,
) -> str:
    """Precision-recall curves. curves: (label, CSS class of the line, precision at `recalls`, nan
    where undefined)."""
    left, top, right, bottom = 60, 12, 16, 50
    across, down = width - left - right, height - top - bottom
    parts = [_open(width, height, "chart", "Precision over recall")]
    for tick in np.linspace(0, 1, 6):
        x, y = left + tick * across, top + (1 - tick) * down
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.1f}</text>'
            f'<text x="{x:.1f}" y="{top + down + 20}" text-anchor="middle">{tick:.1f}</text>'
        )
    parts.append(
        f'<text x="{left + across / 2:.0f}" y="{height - 6}" text-anchor="middle">recall</text>'
        f'<text transform="translate(14 {top + down / 2:.0f}) rotate(-90)" text-anchor="middle">'
        "precision</text>"
    )
    for label, style, values in curves:
        parts.append(
            f"<g><title>{escape(label)}</title>"
            f"{_polyline(recalls, values, style, left, top, across, down)}</g>"
        )
    for row, (label, style, _) in enumerate(curves):
        y = top + down - 14 - 20 * (len(curves) - 1 - row)  # bottom left, where good curves are not
        parts.append(
            f'<line class="{style}" x1="{left + 12}" x2="{left + 38}" y1="{y}" y2="{y}"/>'
            f'<text x="{left + 46}" y="{y + 4}">{escape(label)}</text>'
        )
    return "".join(parts) + "</svg>"


def small_curve(
    name: str, note: str, curves: Sequence[Tuple[str, np.ndarray]], recalls: np.ndarray
) -> str:
    """A small precision-recall chart of one class: axes from 0 to 1 without numbers. curves: (CSS
    class, precision)."""
    width, height = 150, 100
    parts = [
        _open(width, height, "small", f"Precision over recall of {name}"),
        f"<title>{escape(name)}: {escape(note)}</title>",
        f'<rect class="frame" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}"/>',
    ]
    parts += [
        _polyline(recalls, values, style, 4, 4, width - 8, height - 8) for style, values in curves
    ]
    return "".join(parts) + "</svg>"


def matrix_chart(matrix: np.ndarray, names: List[str]) -> str:
    """A confusion matrix as a heat map. matrix: int (c + 1, c + 1), rows truth, columns predicted,
    the last one background; names: of the c classes. A cell's shade is its fraction of the row,
    which a small matrix also shows as a number. Of a large matrix only `drawn_cells` are drawn."""
    labels = list(names) + ["background"]
    small = len(names) <= SMALL_MATRIX
    cell, font = (max(38, min(64, 520 // len(labels))), 12) if small else (11, 9)
    room = min(160, 14 + int(font * 0.56 * max(map(len, labels))))
    width = room + cell * len(labels) + 8
    height = width + 18
    # shades on which numbers keep a contrast of 4.5, by day and by night
    strength = 0.46 if small else 0.94
    side, top = cell * len(labels), 18 + room
    rows, columns, cells = [], [], []
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    for index, label in enumerate(labels):
        middle = room + (index + 0.5) * cell
        text = f"<title>{escape(label)}</title>{escape(shortened(label, 24))}</text>"
        y = 18 + middle + font / 3
        rows.append(f'<text x="{room - 6}" y="{y:.1f}" text-anchor="end">{text}')
        x = middle + font / 3
        columns.append(f'<text transform="translate({x:.1f} {top - 6}) rotate(-90)">{text}')
    # of a large matrix the middle is out of sight
    where = f'x="{room + side / 2:.0f}" text-anchor="middle"' if small else f'x="{room}"'
    columns.append(f'<text {where} y="12">predicted</text>')
    corner = [f'<text x="{room - 6}" y="{top - 6}" text-anchor="end">truth</text>']
    cells.append(f'<rect class="frame" x="{room}" y="{top}" width="{side}" height="{side}"/>')
    for row, column in zip(*np.nonzero(drawn_cells(matrix))):
        x, y, share = room + column * cell, top + row * cell, shares[row, column]
        right = row == column
        truth, predicted = (
            "no object" if row == len(names) else labels[row],
            "not found" if column == len(names) else f"found as {labels[column]}",
        )
        number, total = int(matrix[row, column]), int(matrix[row].sum())
        cells.append(
            f'<rect class="{"right" if right else "wrong"}" x="{x}" y="{y}" width="{cell - 1}" '
            f'height="{cell - 1}" fill-opacity="{0.06 + strength * share:.2f}"><title>'
            f"{escape(truth)}, {escape(predicted)}: {number} of {total} ({100 * share:.1f} %)"
            "</title></rect>"
        )
        if small:
            middle = x + (cell - 1) / 2
            cells.append(
                f'<text x="{middle:.1f}" y="{y + cell / 2 - 1:.1f}" '
                f'text-anchor="middle">{number}</text>'
                f'<text x="{middle:.1f}" y="{y + cell / 2 + 12:.1f}" text-anchor="middle">'
                f"{100 * share:.0f}%</text>"
            )
    # Four pieces of one drawing: a page keeps the names in sight while the cells scroll.
    pieces = (
        ("corner", 0, 0, room, top, corner),
        ("columns", room, 0, width - room, top, columns),
        ("rows", 0, top, room, height - top, rows),
        ("cells", room, top, width - room, height - top, cells),
    )
    drawn = "".join(
        f'<svg class="{name}" viewBox="{left} {above} {across} {down}">{"".join(parts)}</svg>'
        for name, left, above, across, down, parts in pieces
    )
    return (
        '<div class="matrix" role="img" aria-label="Confusion matrix" style="grid-template-columns:'
        f"minmax(0,{room}fr) minmax(0,{width - room}fr);font-size:{font}px;"
        f'{"max" if small else "min"}-width:{width}px">{drawn}</div>'
    )


def drawn_cells(matrix: np.ndarray) -> np.ndarray:
    """The cells of a confusion matrix to draw, bool of its shape: those above 0; if these are more
    than MOST_CELLS, the diagonal and the largest others, the first among equals."""
    nonzero = matrix > 0
    if nonzero.sum() <= MOST_CELLS:
        return nonzero
    rank = np.where(np.eye(len(matrix), dtype=bool), matrix.max() + 1, matrix) * nonzero
    chosen = np.zeros(matrix.size, bool)
    chosen[np.argsort(-rank, axis=None, kind="stable")[:MOST_CELLS]] = True
    return chosen.reshape(matrix.shape)


def bar(value: float) -> str:
    """A bar in a table cell; `value` in [0, 1] is its length relative to the cell."""
    return (
        '<span class="bar"><span '
        f'style="width:{100 * max(0.0, min(1.0, value)):.1f}%"></span></span>'
    )


def _open(width, height, style, label) -> str:
    return (
        f'<svg class="{style}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)}" font-size="12" style="max-width:{width}px">'
    )


def _polyline(xs, ys, style, left, top, across, down) -> str:
    points = " ".join(
        f"{left + x * across:.1f},{top + (1 - y) * down:.1f}" for x, y in zip(xs, ys) if y == y
    )
    return f'<polyline class="{style}" points="{points}"/>'
