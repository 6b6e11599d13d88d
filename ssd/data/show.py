"""Drawn training images with their boxes, to see what the network really gets."""

from __future__ import annotations

import os
from typing import List, NamedTuple, Tuple

import numpy as np

from ssd.config import Config
from ssd.datasets.coco import CocoDataset

LEAST_SIDE = 320  # smaller images are drawn enlarged, so that labels fit [pixels]
IGNORED, GREY = "ignored", (150, 150, 150)  # default boxes that are neither positive nor background


class Sample(NamedTuple):
    """A training image as the network gets it. image: (height, width, 3) uint8 RGB, the network's
    input denormalised; boxes: (m, 4) ltrb in [0, 1]; labels: (m,) from 1; classes: (N,) of the
    default boxes, 0 background, -1 ignored; default_boxes: (N, 4) ltrb in [0, 1] and beyond; index:
    of the image in the data set."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    default_boxes: np.ndarray
    index: int


def denormalise(images: np.ndarray, config: Config) -> np.ndarray:
    """Network input (batch, 3 or 4, height, width), or channels last, to (batch, height, width, 3)
    uint8 RGB."""
    images = images.astype(np.float32)
    images = (images.transpose(0, 2, 3, 1) if config.model.layout == "NCHW" else images)[..., :3]
    values = images * np.float32(config.data.pixel_std) + np.float32(config.data.pixel_mean)
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def take_samples(
    config: Config, dataset: CocoDataset, *, count: int, epoch: int = 1, seed: int = 0
) -> List[Sample]:
    """The first `count` images of an epoch (from 1), read on the CPU by the training loader.
    UserError as of `TrainingLoader`."""
    from ssd.data.pipeline import TrainingLoader
    from ssd.data.samples import steps_per_epoch
    from ssd.model.boxes.formats import cxcywh_to_ltrb
    from ssd.model.detector import build_detector

    batch = min(count, config.training.batch_size)
    config = config.with_values(decode="cpu", batch_size=batch)
    detector = build_detector(config)
    matcher, boxes = detector.matcher, cxcywh_to_ltrb(detector.default_boxes)
    first = (epoch - 1) * steps_per_epoch(len(dataset.images_with_boxes), batch)
    loader = TrainingLoader(config, dataset, matcher, seed=seed, first_step=first, raw_boxes=True)
    samples = []
    while len(samples) < count:
        got = next(loader)
        images, classes = denormalise(got.images.asnumpy(), config), got.classes.asnumpy()
        samples += [
            Sample(image, own.reshape(-1, 4), labels.ravel(), chosen, boxes, int(index))
            for image, own, labels, chosen, index in zip(
                images, got.boxes, got.labels, classes, got.indices
            )
        ]
    loader.close()
    return samples[:count]


def draw_samples(
    config: Config, dataset: CocoDataset, samples: List[Sample]
) -> List[Tuple[np.ndarray, np.ndarray]]:
    """Per sample two tiles of one size, uint8 RGB, captioned: its objects; the default boxes
    matched to them in their class's colour and ignored ones in grey, over the objects' dashed
    boxes."""
    from ssd.drawing import class_colors, draw_boxes
    from ssd.fonts import labels_of

    labels_by_name = labels_of(dataset.category_names)[0]
    names = [labels_by_name[name] for name in dataset.category_names]
    colors = class_colors(names)
    scale = -(-LEAST_SIDE // min(config.model.image_size))
    tiles = []
    for sample in samples:
        image = np.repeat(np.repeat(sample.image, scale, axis=0), scale, axis=1)
        size = np.tile(image.shape[1::-1], 2)
        labels = [names[label - 1] for label in sample.labels]
        width, height = dataset.sizes[sample.index]
        objects = draw_boxes(
            image, sample.boxes * size, labels, np.ones(len(labels)), colors, caption="{name}"
        )
        positive, ignored = np.flatnonzero(sample.classes > 0), np.flatnonzero(sample.classes < 0)
        matched = draw_boxes(
            image,
            sample.default_boxes[ignored] * size,
            [IGNORED] * len(ignored),
            np.ones(len(ignored)),
            {IGNORED: GREY},
            caption="",
        )
        matched = draw_boxes(
            matched,
            sample.default_boxes[positive] * size,
            [names[label - 1] for label in sample.classes[positive]],
            np.ones(len(positive)),
            colors,
            caption="",
        )
        matched = draw_boxes(matched, sample.boxes * size, [""] * len(labels))
        name = os.path.basename(dataset.file_names[sample.index])
        tiles.append(
            (
                _captioned(objects, name, f"{width}x{height}  {_counted(len(labels), 'object')}"),
                _captioned(
                    matched,
                    name,
                    f"{_counted(len(positive), 'default box', 'es')} for "
                    f"{_counted(len(labels), 'object')}"
                    + (f", {len(ignored)} ignored (grey)" if len(ignored) else ""),
                ),
            )
        )
    return tiles


def _counted(number: int, thing: str, plural: str = "s") -> str:
    return f"{number} {thing}{'' if number == 1 else plural}"


def _captioned(image: np.ndarray, name: str, text: str) -> np.ndarray:
    """The image, framed to stand apart from its neighbours, over a line of its file's name,
    shortened where it must be, and the text; a square's tile is a square."""
    from ssd.drawing import draw_text, text_size
    from ssd.fonts import readable, shortened

    high, margin = 22, 3
    height, width = image.shape[0] + high + margin, image.shape[1] + high + margin
    tile = np.full((height, width, 3), 255, np.uint8)
    left = (width - image.shape[1]) // 2
    tile[margin : margin + image.shape[0], left : left + image.shape[1]] = image
    name, scale = readable(name), 0.4
    kept = len(name)
    while kept > 3 and text_size(f"{shortened(name, kept)}  {text}", scale)[0] > width - left:
        kept -= 1
    draw_text(tile, f"{shortened(name, kept)}  {text}", left, height - 7, scale, (0, 0, 0))
    return tile
