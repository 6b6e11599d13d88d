"""Images with ground truth and detections side by side, as HTML figures."""

from __future__ import annotations

import base64
import io
import warnings
from html import escape
from typing import List, Optional, Sequence, Tuple

import numpy as np

from ssd.datasets.image_folder import open_images

SIDE = 420  # pixels: the longer side of an image in the report
TEXT = 0.6  # text scale of its labels: the page shows the image about 250 pixels wide
CROWDED = 10  # with more boxes, labels get the smallest size, or they would hide the image
QUALITY = 80  # of its JPEG


class ExampleImages:
    """Draws boxes on a data set's images. legend: a line on labels that are not class names, ""
    without any."""

    def __init__(self, evaluation, file_names: Sequence[str], image_folder: str, threshold: float):
        """evaluation: an ssd.evaluation.per_class.Evaluation; file_names: of its image_ids;
        threshold: the lowest score to draw. UserError for records that cannot be used."""
        self.evaluation, self.file_names, self.threshold = evaluation, file_names, threshold
        self.images = open_images(image_folder)
        from ssd.drawing import class_colors
        from ssd.fonts import labels_of

        self.labels, self.legend = labels_of(evaluation.category_names)
        self.colors = {
            self.labels[name]: color
            for name, color in class_colors(evaluation.category_names).items()
        }

    def figure(self, image: int, note: str = "") -> str:
        """The HTML figure of an image (its index in the evaluation): ground truth and detections
        side by side."""
        pixels = stored_image(self.images, self.file_names[image])
        name = self.file_names[image]
        if pixels is None:
            return f"<figure><figcaption>{escape(name)}: cannot be read</figcaption></figure>"
        scale = SIDE / max(pixels.shape[:2])
        pixels = _resized(pixels, scale)
        panels = "".join(
            f'<img alt="{escape(f"{what} of {name}")}" width="{pixels.shape[1]}" '
            f'height="{pixels.shape[0]}" src="{jpeg(panel)}">'
            for what, panel in (
                ("ground truth", self._truth(image, pixels, scale)),
                ("detections", self._found(image, pixels, scale)),
            )
        )
        return (
            f'<figure><div class="pair">{panels}</div><figcaption>'
            f"{escape(name)}{escape(note and ': ' + note)}</figcaption></figure>"
        )

    def _truth(self, image, pixels, scale):
        from ssd.drawing import draw_boxes

        truth, names = self.evaluation.truth, self.evaluation.category_names
        chosen = np.flatnonzero(truth.image == image)
        labels = [
            self.labels[names[truth.category[index]]] + (" (crowd)" if truth.crowd[index] else "")
            for index in chosen
        ]
        boxes = _ltrb(truth.boxes_xywh[chosen]) * scale
        return draw_boxes(pixels, boxes, labels, text_scale=_text_scale(labels))

    def _found(self, image, pixels, scale):
        from ssd.drawing import draw_boxes

        rows, names = self.evaluation.rows, self.evaluation.category_names
        chosen = rows[(rows[:, 0] == image) & (rows[:, 5] >= self.threshold)]
        labels = [self.labels[names[int(label)]] for label in chosen[:, 6]]
        boxes = _ltrb(chosen[:, 1:5]) * scale
        return draw_boxes(
            pixels, boxes, labels, chosen[:, 5], self.colors, text_scale=_text_scale(labels)
        )


def _text_scale(labels):
    return TEXT if len(labels) <= CROWDED else None


def examples(evaluation, count: int) -> List[int]:
    """`count` images, evenly spaced over those that hold an object (or over all if none does), so
    that none is hand-picked."""
    truth = evaluation.truth
    images = (
        np.unique(truth.image[truth.crowd == 0])
        if (truth.crowd == 0).any()
        else np.arange(truth.images)
    )
    return images[
        np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int))
    ].tolist()


def worst(counts, number: int) -> List[Tuple[int, str]]:
    """(image, its mistakes as text) of the images with the most mistakes. counts: an
    ssd.evaluation.confusion.ConfusionCounts."""
    order = np.argsort(-counts.errors, kind="stable")[:number]
    return [
        (
            int(image),
            _mistakes(
                int(counts.missed[image]), int(counts.confused[image]), int(counts.spurious[image])
            ),
        )
        for image in order
        if counts.errors[image]
    ]


def _mistakes(missed: int, confused: int, spurious: int) -> str:
    mistakes = (
        (missed, "not found"),
        (confused, "of the wrong class"),
        (
            spurious,
            "detection without an object" if spurious == 1 else "detections without an object",
        ),
    )
    return ", ".join(f"{number} {what}" for number, what in mistakes if number)


def stored_image(images, name: str) -> Optional[np.ndarray]:
    """An image of ssd.datasets.image_folder.open_images as uint8 (height, width, 3) RGB, without
    EXIF rotation, as in annotations and training; None if it cannot be read."""
    from PIL import Image

    from ssd.datasets.image_formats import FORMATS
    from ssd.datasets.rgb import to_rgb

    try:
        with warnings.catch_warnings():  # on odd metadata and very large images
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(images.read(name)), formats=FORMATS) as image:
                return to_rgb(image)
    except Exception:  # Pillow's decoders raise nearly anything on bad data
        return None


def jpeg(pixels: np.ndarray) -> str:
    """An image as a JPEG data URI. pixels: uint8 (height, width, 3) RGB."""
    import cv2

    encoded = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def _resized(pixels, scale):
    import cv2

    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return cv2.resize(
        pixels, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )


def _ltrb(boxes_xywh):
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
