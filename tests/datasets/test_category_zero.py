"""Category ids from 0 and annotation ids of 0, as Open Images' files have them, through the loader
and every scorer."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ssd.datasets.coco import load_coco
from ssd.evaluation.detections import Detections
from ssd.evaluation.scoring import score_detections
from ssd.evaluation.scoring_backends import SCORERS


def ground_truth(path, categories, first_annotation):
    """Three images, two categories whose ids are given, one box of each in every image, one of them
    a group."""
    images = [dict(id=key, file_name=f"{key:016x}.jpg", width=100, height=80) for key in (1, 2, 3)]
    annotations = []
    for image in images:
        for position, category in enumerate(categories):
            box = [5 + 40 * position, 10, 30, 50 - 5 * image["id"]]
            annotations.append(
                dict(
                    id=first_annotation + len(annotations),
                    image_id=image["id"],
                    category_id=category,
                    bbox=box,
                    area=box[2] * box[3],
                    iscrowd=int(image["id"] == 3 and position == 1),
                )
            )
    path.write_text(
        json.dumps(
            dict(
                images=images,
                annotations=annotations,
                categories=[
                    dict(id=category, name=name, supercategory=None)
                    for category, name in zip(categories, ("Airplane", "Ant"))
                ],
            )
        )
    )
    return annotations


def found_boxes(annotations, categories):
    """The true boxes but for one of the first category, slightly off in the second image, and a
    wrong one."""
    rows = [
        (
            entry["image_id"],
            [side + 2 * (entry["image_id"] == 2) for side in entry["bbox"]],
            0.9 - 0.01 * index,
            entry["category_id"],
        )
        for index, entry in enumerate(annotations)
        if index != 2
    ]
    rows.append((1, [60, 60, 20, 10], 0.95, categories[0]))
    return Detections(*(list(column) for column in zip(*rows)))


@pytest.mark.parametrize("scorer", SCORERS)
def test_scores_do_not_depend_on_the_numbers(tmp_path, scorer):
    scores = []
    for categories, first in (((7, 9), 1), ((0, 1), 1), ((0, 1), 0), ((7, 9), 0), ((1, 2), 10**12)):
        path = tmp_path / "a.json"
        detections = found_boxes(ground_truth(path, categories, first), categories)
        try:
            scores.append(score_detections(path, detections, per_class=True, scorer=scorer))
        except Exception as error:
            if "cannot be imported" in str(error):
                pytest.skip(str(error))
            raise
    assert 0.3 < scores[0]["AP"] < 0.9 and scores[0]["AP/Airplane"] < scores[0]["AP/Ant"]
    assert all(one == scores[0] for one in scores)


def test_the_loader_numbers_classes_by_position_and_knows_the_ids(tmp_path):
    for categories, first in (((0, 1), 0), ((1, 0), 5), ((263, 0), 0)):
        ground_truth(tmp_path / "a.json", categories, first)
        for key in (1, 2, 3):
            (tmp_path / f"{key:016x}.jpg").touch()
        data = load_coco(
            tmp_path / "a.json", tmp_path, check_images="exists", report=lambda line: None
        )
        assert data.category_ids == categories and data.box_classes.tolist() == [1, 2] * 3
        # The way back, as evaluation takes it: class c is category_ids[c - 1].
        assert np.array(data.category_ids)[data.box_classes - 1].tolist() == list(categories) * 3
        assert data.num_classes == 3 and data.box_crowd.tolist() == [False] * 5 + [True]
