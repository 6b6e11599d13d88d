"""A trained detector to be called on images: `Predictor.load(path)(image)`."""

from __future__ import annotations

import argparse
from typing import Iterable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from ssd.config import Config
from ssd.errors import UserError
from ssd.runtime import start
from ssd.tools.image_input import NetworkInput, as_image

BATCH_SIZE = 8


class Detected(NamedTuple):
    """The n detections on one image, best score first; arrays in Gluon's convention.

    ids: (n, 1) int32, indices into the detector's class_names, from 0. scores: (n, 1) float32 in
    [0, 1]. boxes: (n, 4) float32, ltrb in pixels of the image, clipped to it. names: the n class
    names.
    """

    ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    names: Tuple[str, ...]

    def select(self, chosen: np.ndarray) -> Detected:
        """The detections where `chosen`, (n,) bool, is true."""
        return Detected(
            self.ids[chosen],
            self.scores[chosen],
            self.boxes[chosen],
            tuple(name for name, one in zip(self.names, chosen) if one),
        )


class Predictor:
    """A network with its weights, settings and class names, on its device.

    class_names: of the ids 0, 1, ...; category_ids: the ids of these classes in COCO-format files,
    None for a class that the file does not have; config: the settings.
    """

    @classmethod
    def load(
        cls,
        path,
        device: str = "auto",
        *,
        score_threshold: Optional[float] = None,
        nms_iou: Optional[float] = None,
        boxes_per_image: Optional[int] = None,
        batch_size: int = BATCH_SIZE,
        recipe: Optional[str] = None,
        classes: Optional[str] = None,
    ) -> Predictor:
        """A detector from a run's weights.params or a checkpoint's parameters.npz.

        device: auto (a GPU if there is one), cpu or gpu. score_threshold [0, 1], nms_iou (0, 1],
        boxes_per_image: override those that the weights were trained with (see `detection` in a
        recipe). batch_size: most images that go through the network at once. Weights without stored
        settings use the recipe.yaml of their run, or the given `recipe`, and an annotation file
        `classes` for the names. UserError for arguments that do not fit.
        """
        flags = {
            "run.device": device,
            "detection.score_threshold": score_threshold,
            "detection.nms_iou": nms_iou,
            "detection.boxes_per_image": boxes_per_image,
        }
        given = {name: value for name, value in flags.items() if value is not None}
        return load_predictor(path, argparse.Namespace(recipe=recipe, **given), classes, batch_size)

    def __init__(
        self, config: Config, path, class_names, category_ids, batch_size: int = BATCH_SIZE
    ):
        """The network of `config` with the weights at `path`; UserError if they belong to another
        network."""
        start()
        import mxnet as mx

        from ssd.evaluation.inference import build_inference
        from ssd.model.device import choose_device
        from ssd.model.weights import load_detector

        if batch_size < 1:
            raise UserError(f"batch_size: {batch_size} is less than 1")
        if config.run.device == "cpu" or not mx.context.num_gpus():
            # the only ones that work on a CPU
            config = config.with_values(layout="NCHW", dtype="float32", decode="cpu")
        self.config, self.batch_size = config, batch_size
        self.class_names, self.category_ids = tuple(class_names), tuple(category_ids)
        device = choose_device(config)
        detector = load_detector(config, path, device.context)
        self._inference = build_inference(detector, device, path)
        self._input = NetworkInput(
            config, batch_size, device.kind, device.index, detector.network.input_channels == 4
        )

    def __call__(self, image):
        """Detected of an image, or a list of them for a list.

        An image is a path (rotated upright by its EXIF data), a PIL image, or an array, uint8
        (height, width, 3) RGB or (height, width) grey. UserError for anything else, and for a file
        that cannot be read.
        """
        images = list(image) if isinstance(image, (list, tuple)) else [image]
        groups = (
            list(map(as_image, images[start : start + self.batch_size]))
            for start in range(0, len(images), self.batch_size)
        )
        found = [one for group in self.stream(groups) for one in group]
        return found if isinstance(image, (list, tuple)) else found[0]

    def stream(self, batches: Iterable[List[np.ndarray]]) -> Iterator[List[Detected]]:
        """A list of Detected for each list of 1 to batch_size images, uint8 (height, width, 3) RGB.

        It reads the next batch while the network computes the current one.
        """
        waiting = None
        for images in batches:
            batch, size_input = self._input(images), []
            if self._inference.in_pixels:
                import mxnet as mx

                sizes = [image.shape[1::-1] for image in images]
                size_input = [mx.nd.array(sizes, ctx=batch.context)]
            outputs = self._inference(batch, *size_input)
            if waiting is not None:
                yield self._results(*waiting)
            waiting = outputs, [image.shape[:2] for image in images]
        if waiting is not None:
            yield self._results(*waiting)

    def _results(self, outputs, sizes) -> List[Detected]:
        results = []
        for rows, (height, width) in zip(outputs.asnumpy(), sizes):
            rows = rows[rows[:, 0] > 0]
            ids = rows[:, :1].astype(np.int32) - 1
            boxes = np.clip(rows[:, 2:], 0, 1) * np.float32([width, height, width, height])
            results.append(
                Detected(
                    ids,
                    rows[:, 1:2],
                    boxes,
                    tuple(self.class_names[number] for number in ids[:, 0]),
                )
            )
        return results


def load_predictor(
    path, args, classes: Optional[str] = None, batch_size: int = BATCH_SIZE
) -> Predictor:
    """The Predictor of the weights at `path`; the recipe and flags in `args` override the settings
    stored with the weights. `classes`: an annotation file whose categories give the class names.
    UserError for what does not fit.
    """
    start()  # before the weights' settings are read with MXNet
    from ssd.evaluation.saved_network import settings_of

    config, info = settings_of(args, path)
    names, ids = class_names_and_ids(config, info, path, classes)
    return Predictor(config, path, names, ids, batch_size)


def class_names_and_ids(config: Config, info, path, classes: Optional[str]) -> Tuple[tuple, tuple]:
    """(class names, category ids) of the network's classes."""
    count = config.model.num_classes - 1
    if classes:
        from ssd.datasets.annotations import categories_of

        ids, names = categories_of(classes)
        if len(ids) != count:
            raise UserError(
                f"--classes {classes}: {len(ids)} categories; the network of {path} has {count}"
            )
        return names, ids
    if info is not None and len(info.category_names) == count:
        return info.category_names, info.category_ids
    return tuple(f"class {number}" for number in range(1, count + 1)), tuple(range(1, count + 1))
