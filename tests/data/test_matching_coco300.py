"""Matching on real images: what the reference's own encoder makes of the 997 images with a box of
coco300.

Ties are common there: a small object lies inside several default boxes of equal area.
"""

import numpy as np
import pytest
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline

from ssd.config import load_recipe
from ssd.data.bridge import to_numpy
from ssd.data.coverage import coverage
from ssd.data.graphs import encode_boxes
from ssd.datasets.coco import load_coco
from ssd.model.boxes.box_rules import sizes_of
from ssd.model.detector import build_detector
from tests.shared import shared_path

CONFIG = load_recipe("ssd-resnet34-coco")


@pytest.fixture(scope="module")
def coco300():
    return load_coco(
        shared_path("data/coco300/annotations/instances_train2017.json"),
        shared_path("data/coco300/train2017"),
        check_images="exists",
        report=lambda line: None,
    )


@pytest.fixture(scope="module")
def reference():
    return np.load(shared_path("reference/coco300_matching.npz"), allow_pickle=False)


@pytest.fixture(scope="module")
def matcher():
    return build_detector(CONFIG).matcher


@pytest.fixture(scope="module")
def samples(coco300, reference):
    """(boxes (m, 4) float32 ltrb in [0, 1], labels (m,)) of the images in the reference's order."""
    by_id = {int(number): index for index, number in enumerate(coco300.image_ids)}
    result = []
    for number in reference["image_id"]:
        index = by_id[int(number)]
        rows = coco300.box_image == index
        boxes = coco300.boxes_ltrb[rows] / np.tile(coco300.sizes[index], 2)
        result.append((boxes.astype(np.float32), coco300.box_classes[rows].astype(np.int32)))
    return result


def test_the_matcher_gives_the_references_positives(reference, samples, matcher):
    found = [matcher(*sample) for sample in samples]
    assert [len(one.positions) for one in found] == reference["positive_count"].tolist()
    np.testing.assert_array_equal(
        np.concatenate([one.positions for one in found]), reference["positive_index"]
    )
    np.testing.assert_array_equal(
        np.concatenate([one.classes for one in found]), reference["positive_label"]
    )


def test_dalis_encoder_gives_the_references_positives(reference, samples, matcher):
    pipeline = Pipeline(
        batch_size=len(samples), num_threads=2, device_id=None, prefetch_queue_depth=1
    )
    with pipeline:
        boxes = fn.external_source(source=lambda: [boxes for boxes, _ in samples])
        labels = fn.external_source(source=lambda: [labels for _, labels in samples])
        pipeline.set_outputs(encode_boxes(boxes, labels, matcher, 300)[1])
    pipeline.build()
    classes = to_numpy(pipeline.run()[0])
    image, position = np.nonzero(classes)
    assert (
        np.bincount(image, minlength=len(samples)).tolist() == reference["positive_count"].tolist()
    )
    np.testing.assert_array_equal(position, reference["positive_index"])
    np.testing.assert_array_equal(classes[image, position], reference["positive_label"])


def test_coverage_counts_the_matchers_positives(samples, matcher):
    boxes = np.concatenate([boxes for boxes, _ in samples])
    image = np.repeat(np.arange(len(samples)), [len(boxes) for boxes, _ in samples])
    best, matched = coverage(sizes_of(CONFIG), matcher, boxes, image)
    # Each object with a label of its own, so that the result names the object of each default box.
    found = [matcher(boxes, np.arange(1, len(boxes) + 1)) for boxes, _ in samples]
    expected = [
        np.bincount(one.classes - 1, minlength=len(boxes))
        for one, (boxes, _) in zip(found, samples)
    ]
    np.testing.assert_array_equal(matched, np.concatenate(expected))
    assert 0 < best.min() and best.max() <= 1
