"""Draws boxes on images: ground truth dashed, detections in the colour of their class with score.

Uses OpenCV, not gluoncv.utils.viz: that takes 3 seconds to import instead of 0.3.
"""

from __future__ import annotations

import functools
import os
import zlib

import numpy as np

from ssd import fonts
from ssd.errors import UserError
from ssd.files import replace_file

_DASH = 4  # pixels of white, then as many of black
_PAD = 2  # pixels between a label's text and its border
_WHOLE = 28  # letters of a label that may be wider than half of the image
_FIRST = (255, 255, 13), (190, 13, 255), (13, 255, 121)


def draw_boxes(
    image,
    boxes_ltrb,
    labels,
    scores=None,
    colors=None,
    caption="{name} {score:.2f}",
    text_scale=None,
):
    """A copy of `image` with boxes and their labels drawn on it.

    image: uint8 (height, width, 3), RGB, at least 1x1.
    boxes_ltrb: (n, 4) left, top, right, bottom in pixels, right and bottom exclusive: a box around
        the entire image is 0, 0, width, height. Boxes are clipped to the image; those entirely
        outside are left out.
    labels: n class names; shortened in the middle if they are long or the image is narrow, left out
        in a very small image. Letters that no installed font has are drawn as escapes (see
        ssd.fonts, and its labels_of for sets of classes). A label avoids the labels of boxes with
        higher scores, if there is room. Ground truth with an empty name gets no label.
    scores: n numbers in [0, 1] for detections, drawn with solid edges in the colour of their class,
        the highest score on top. None for ground truth, drawn with thin edges dashed in black and
        white.
    colors: mapping from class name to (red, green, blue), 0 to 255; other classes get a colour
        derived from their name. Ignored for ground truth.
    caption: format of a detection's label, with name and score; "" for no label.
    text_scale: size of the labels in OpenCV's fonts: 0.4 is about 9 pixels high; None: it follows
        the image's size.

    Returns uint8 (height, width, 3). AssertionError for other shapes or types (grey images have no
    third dimension) and for boxes that are not finite.
    """
    image = np.asarray(image)
    assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and image.size, (
        f"draw_boxes needs uint8 (height, width, 3), not {image.dtype} {image.shape}"
    )
    boxes = np.asarray(boxes_ltrb, np.float64).reshape(-1, 4)
    assert np.isfinite(boxes).all(), "boxes must be finite"
    assert len(boxes) == len(labels) and (scores is None or len(scores) == len(boxes)), (
        "lengths differ"
    )
    height, width = image.shape[:2]
    visible = (
        (boxes[:, 0] < width)
        & (boxes[:, 1] < height)
        & (boxes[:, 2] > 0)
        & (boxes[:, 3] > 0)
        & (boxes[:, 2] >= boxes[:, 0])
        & (boxes[:, 3] >= boxes[:, 1])
    )
    order = [index for index in range(len(boxes)) if visible[index]]
    if scores is not None:
        order.sort(key=lambda index: scores[index])
    # 0.4: the smallest legible text
    scale = text_scale or min(1.0, max(0.4, min(height, width) / 1000))
    canvas = image.copy()
    labelled = []
    for index in order:
        left, top, right, bottom = np.rint(np.clip(boxes[index], 0, [width, height] * 2)).astype(
            int
        )
        # A box thinner than a pixel is drawn one pixel wide, inside the image.
        left, top = min(left, width - 1), min(top, height - 1)
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        name = str(labels[index])
        if scores is None:
            color, text = (255, 255, 255), name
            _dashed_edges(canvas, left, top, right, bottom)
        else:
            color = tuple((colors or {}).get(name) or _class_color(name))
            text = caption.format(name=name, score=scores[index])
            _solid_edges(canvas, left, top, right, bottom, color, 1 + (min(height, width) >= 200))
        found = (
            _place_label(text, (left, top, right, bottom), canvas.shape, scale) if text else None
        )
        if found:
            labelled.append((color, found))
    # Labels after all edges, so that no edge crosses a text; the highest scores choose their
    # position first and are drawn last.
    taken, strips = [], []
    for color, (text, corners, size) in reversed(labelled):
        corner = next(
            (corner for corner in corners if not _overlaps(corner, size, taken)), corners[0]
        )
        taken.append((corner, size))
        strips.append((text, color, corner, size))
    for strip in reversed(strips):
        _draw_label(canvas, *strip, scale)
    return canvas


def class_colors(names):
    """(red, green, blue), 0 to 255, of each class name: very different, especially for neighbours
    in the list; the first is yellow. Colours repeat after 512 classes."""
    colors = _palette(min(len(names), len(_shades()[0])))
    return {name: colors[index % len(colors)] for index, name in enumerate(names)}


@functools.lru_cache(maxsize=None)
def _shades():
    """(candidate colours, int (n, 3) RGB; the same in CIELAB, float (n, 3)): bright enough for dark
    images, and saturated enough to differ from ground truth's white and ignored boxes' grey."""
    import colorsys

    steps = ((95, 100), (70, 100), (45, 100), (95, 80), (55, 80), (95, 62), (95, 90), (80, 70))
    rgb = np.array(
        [
            colorsys.hsv_to_rgb(hue / 64, saturation / 100, value / 100)
            for saturation, value in steps
            for hue in range(64)
        ]
    )
    return np.rint(255 * rgb).astype(int), _lab(rgb)


@functools.lru_cache(maxsize=None)
def _palette(count: int):
    """The first `count` colours of a fixed list, as tuples."""
    rgb, lab = _shades()
    # Yellow, violet and green stand out on photographs. Each further colour is far from all before
    # it, especially from the last eight: classes listed together often occur together.
    chosen = [int(np.abs(rgb - np.array(color)).sum(axis=1).argmin()) for color in _FIRST][:count]

    def far(index):
        return np.linalg.norm(lab - lab[index], axis=1)

    nearest = np.min([far(index) for index in chosen], axis=0) if chosen else None
    while len(chosen) < count:
        recent = np.min([far(index) for index in chosen[-8:]], axis=0)
        chosen.append(int((nearest * recent).argmax()))
        nearest = np.minimum(nearest, far(chosen[-1]))
    return [tuple(map(int, rgb[index])) for index in chosen]


def _linear(rgb):
    """sRGB values in [0, 1] as linear light."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _lab(rgb):
    """sRGB in [0, 1], (n, 3), as CIELAB (white point D65): distances match perception."""
    xyz = _linear(rgb) @ np.array(
        [[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]
    )
    x, y, z = (
        np.where(part > 216 / 24389, np.cbrt(part), (24389 / 27 * part + 16) / 116)
        for part in (xyz / (0.9505, 1, 1.089)).T
    )
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def text_color(color):
    """Black or white, whichever is more legible on `color`, (red, green, blue), 0 to 255; WCAG's
    contrast ratio is at least 4.5 on every colour."""
    luminance = _linear(np.asarray(color) / 255) @ (0.2126, 0.7152, 0.0722)
    return (0, 0, 0) if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else (255, 255, 255)


def mosaic(images, columns: int, cell: int):
    """The images in a grid, each scaled to fit a square of `cell` pixels, on grey.

    images: uint8 (height, width, 3) each, RGB, of any sizes; at least one. columns: most images in
    a row.

    Returns uint8 (rows * cell, columns * cell, 3), with no more columns than images.
    """
    import cv2

    assert images and columns >= 1 and cell >= 1, "nothing to show"
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    canvas = np.full((rows * cell, columns * cell, 3), 128, np.uint8)
    for index, image in enumerate(images):
        scale = cell / max(image.shape[:2])
        height, width = (min(cell, max(1, round(side * scale))) for side in image.shape[:2])
        fitted = (
            image
            if scale == 1
            else cv2.resize(
                image,
                (width, height),
                interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
            )
        )
        top = index // columns * cell + (cell - height) // 2
        left = index % columns * cell + (cell - width) // 2
        canvas[top : top + height, left : left + width] = fitted
    return canvas


def save_image(path, image) -> None:
    """Write `image`, uint8 (height, width, 3) RGB, to `path`, a .png or .jpg; replaces atomically.

    Makes the folder. UserError for another extension and for a path that cannot be written.
    """
    import cv2

    path = str(path)
    ending = os.path.splitext(path)[1].lower()
    if ending not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"{path}: an image's name must end in .png or .jpg")
    encoded = cv2.imencode(ending, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        # Not synced: predict draws thousands, and can draw them again.
        replace_file(path, encoded, synced=False)
    except OSError as error:
        raise UserError(f"{path}: cannot write the image: {error.strerror}") from None


def _class_color(name):
    """A bright colour for this name, the same in every run (hash() is not)."""
    import colorsys

    hue = zlib.crc32(name.encode("utf-8", "surrogatepass")) / 2**32
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.9, 1.0))


def _solid_edges(canvas, left, top, right, bottom, color, thickness):
    # Edges grow inwards, so that a box along the image's border shows all of them.
    canvas[top : min(top + thickness, bottom), left:right] = color
    canvas[max(bottom - thickness, top) : bottom, left:right] = color
    canvas[top:bottom, left : min(left + thickness, right)] = color
    canvas[top:bottom, max(right - thickness, left) : right] = color


def _dashed_edges(canvas, left, top, right, bottom):
    def dashes(length):
        return np.where(np.arange(length) // _DASH % 2, 0, 255).astype(np.uint8)[:, None]

    for row in (top, bottom - 1):
        canvas[row, left:right] = dashes(right - left)
    for column in (left, right - 1):
        canvas[top:bottom, column] = dashes(bottom - top)


def text_size(text, scale):
    """(width, height above the baseline, height below it) [pixels] of readable text; scale: of
    OpenCV's fonts."""
    import cv2

    if text.isascii():
        (across, above), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        return across, above, below
    return fonts.text_extent(text, _em(scale))


def draw_text(canvas, text, left, baseline, scale, color):
    """Draw readable text (see ssd.fonts.readable) on uint8 (height, width, 3), in place."""
    import cv2

    if text.isascii():
        cv2.putText(
            canvas, text, (left, baseline), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA
        )
    else:
        fonts.render_text(canvas, text, left, baseline, color, _em(scale))


def _em(scale):
    # Capitals as high as OpenCV's; Han characters need 14 pixels to be legible.
    return max(14, round(32 * scale))


def _place_label(label, box, shape, scale):
    """(text that fits, corners where it may go, its width and height); None if the image is too
    small."""
    height, width = shape[:2]

    def size(text):
        across, above, below = text_size(text, scale)
        return across + 2 * _PAD, above + below + 2 * _PAD

    text = label = fonts.readable(label)
    left, top, right, bottom = box
    kept, wide = len(label), max(right - left, width / 2)
    while kept > 3 and size(text)[0] > (wide if kept > _WHOLE else width):
        kept -= 1
        text = fonts.shortened(label, kept)
    across, high = size(text)
    if across > width or 2 * high > height:
        return None
    corners = [
        (x, y) for y in (top - high, top, bottom, bottom - high) for x in (left, right - across)
    ]
    inside = [(x, y) for x, y in corners if 0 <= x <= width - across and 0 <= y <= height - high]
    nearest = (max(0, min(left, width - across)), max(0, min(top, height - high)))
    return text, inside or [nearest], (across, high)


def _overlaps(corner, size, taken):
    left, top = corner
    return any(
        left < x + across and x < left + size[0] and top < y + high and y < top + size[1]
        for (x, y), (across, high) in taken
    )


def _draw_label(canvas, text, color, corner, size, scale):
    (left, top), (across, high) = corner, size
    canvas[top : top + high, left : left + across] = color
    below = text_size(text, scale)[2]
    draw_text(canvas, text, left + _PAD, top + high - _PAD - below, scale, text_color(color))
