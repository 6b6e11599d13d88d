"""Small data sets, settings and batches for the tests of the data pipeline."""

import json
import os

import numpy as np
from PIL import Image

from ssd.config import load_recipe
from ssd.data.pipeline import TrainingLoader
from ssd.datasets.coco import load_coco
from ssd.model.matching import Matcher

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
REFERENCE = os.environ.get("SSD_REFERENCE_VECTORS") or os.path.join(
    REPOSITORY, "tests", "reference", "ssd_reference_seed0.npz"
)
RECIPE = load_recipe("ssd-resnet34-coco")
# Four default boxes, the quarters of the image.
MATCHER = Matcher(
    np.float32([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]),
    RECIPE.default_boxes,
    [(4, 1)],
)


def reference_matcher(default_boxes_ltrb):
    """The matcher of SSD-ResNet34's 8,732 default boxes."""
    sides, shapes = (38, 19, 10, 5, 3, 1), (4, 6, 6, 6, 4, 4)
    return Matcher(
        default_boxes_ltrb,
        RECIPE.default_boxes,
        [(side * side, n) for side, n in zip(sides, shapes)],
    )


def settings(**values):
    return RECIPE.with_values(**{**dict(batch_size=4, eval_batch_size=4, image_size=32), **values})


def make_dataset(folder, images, boxes, extension="png"):
    """A data set of Pillow images or byte strings; boxes: per image (left, top, right, bottom,
    class 1..3)."""
    records, annotations = [], []
    for index, (image, image_boxes) in enumerate(zip(images, boxes)):
        name = f"image{index}.{extension}"
        path = os.path.join(folder, name)
        size = (40, 30)
        if isinstance(image, bytes):
            with open(path, "wb") as file:
                file.write(image)
        else:
            image.save(path)
            size = image.size
        records.append(dict(id=1000 + index, file_name=name, width=size[0], height=size[1]))
        annotations += [
            dict(
                id=len(annotations) + number,
                image_id=1000 + index,
                category_id=10 * kind,
                area=1,
                iscrowd=0,
                bbox=[left, top, right - left, bottom - top],
            )
            for number, (left, top, right, bottom, kind) in enumerate(image_boxes)
        ]
    path = os.path.join(folder, "annotations.json")
    with open(path, "w") as file:
        json.dump(
            dict(
                images=records,
                annotations=annotations,
                categories=[dict(id=10 * kind, name=f"thing{kind}") for kind in (1, 2, 3)],
            ),
            file,
        )
    return load_coco(
        path, str(folder), check_images="exists", require_boxes=False, report=lambda line: None
    )


def grey_dataset(folder, count, without_box=()):
    """Images of one grey level each, 10 times their index."""
    images = [Image.new("RGB", (40, 30), (10 * index,) * 3) for index in range(count)]
    boxes = [[] if index in without_box else [(4, 3, 20, 24, 1)] for index in range(count)]
    return make_dataset(folder, images, boxes)


def photo(width=400, height=320, seed=0):
    """A smooth colourful image."""
    small = np.random.RandomState(seed).randint(0, 256, (8, 10, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.BICUBIC)


def jpeg(path):
    photo(40, 30).save(path)
    with open(path, "rb") as file:
        return file.read()


def stream(dataset, steps, batch_size=4, device="cpu", values=(), **arguments):
    """Per step: its number and (images, offsets, classes, indices)."""
    config = settings(batch_size=batch_size, **dict(values))
    loader = TrainingLoader(config, dataset, MATCHER, device=device, **arguments)
    result = []
    for batch in (next(loader) for _ in range(steps)):
        result.append(
            (
                batch.step,
                [
                    batch.images.asnumpy(),
                    batch.offsets.asnumpy(),
                    batch.classes.asnumpy(),
                    batch.indices,
                ],
            )
        )
    loader.close()
    return result


def assert_same(streams, others):
    assert len(streams) == len(others)
    for (step, ours), (other_step, theirs) in zip(streams, others):
        assert step == other_step
        for one, other in zip(ours, theirs):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def thirteen_photos(folder):
    """13 images with one to three boxes each: three steps of 4 and one image left over."""
    random, boxes = np.random.RandomState(2), []
    for index in range(13):
        corners = random.randint(0, 40, (1 + index % 3, 2)).tolist()
        boxes.append(
            [
                (left, top, left + 9 + index, top + 20 - index, 1 + index % 3)
                for left, top in corners
            ]
        )
    return make_dataset(folder, [photo(60, 60, seed) for seed in range(13)], boxes)
