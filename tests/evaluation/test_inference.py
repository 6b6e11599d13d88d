"""From the network's output to COCO's terms."""

import types

import numpy as np

from ssd.evaluation.inference import detection_rows
from ssd.evaluation.pending import as_detections

SIZES = np.array([[100, 50], [640, 480], [10, 20]])


def test_rows_are_pixels_of_the_original_image():
    outputs = np.full((2, 3, 6), -1.0, np.float32)
    outputs[0, 0] = [2, 0.5, 0.25, 0.5, 0.75, 1.0]
    outputs[1, 0] = [1, 0.75, -0.5, 0, 0.5, 0.5]
    outputs[1, 1] = [3, 0.25, 0, 0, 1, 1]
    rows = detection_rows(outputs, np.array([1, 0]), SIZES)
    np.testing.assert_allclose(
        rows,
        [
            [1, 160, 240, 320, 240, 0.5, 2],
            [0, -50, 0, 100, 25, 0.75, 1],
            [0, 0, 0, 100, 50, 0.25, 3],
        ],
    )


def test_padding_and_empty_images_leave_no_row():
    outputs = np.full((3, 2, 6), -1.0, np.float32)
    outputs[2, 0] = [1, 0.9, 0, 0, 1, 1]  # a padded row of the batch
    assert detection_rows(outputs, np.array([0, 2]), SIZES).shape == (0, 7)


def dataset():
    return types.SimpleNamespace(
        path="annotations.json", image_ids=np.array([7, 2**40, 9]), category_ids=(3, 18, 5)
    )


def test_ids_are_those_of_the_annotation_file():
    rows = np.array([[1, 1, 2, 3, 4, 0.5, 2], [0, 1, 2, 3, 4, 0.25, 3]])
    detections = as_detections(rows, dataset())
    assert detections.image_id.tolist() == [2**40, 7]
    assert detections.category_id.tolist() == [18, 5]
    assert detections.boxes_xywh.tolist() == [[1, 2, 3, 4]] * 2 and detections.score.tolist() == [
        0.5,
        0.25,
    ]
    assert len(as_detections(np.empty((0, 7)), dataset())) == 0
