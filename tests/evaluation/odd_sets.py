"""Small data sets with everything that may break a score, and pycocotools used directly, the
reference for them."""

from __future__ import annotations

import contextlib
import io
import json
import os
from types import SimpleNamespace
from unittest import mock

import numpy as np

from ssd.evaluation import pending, scoring_child
from ssd.evaluation.scored_set import ScoredSet
from ssd.evaluation.scoring_backends import GroundTruth
from ssd.evaluation.scoring_process import ScoringProcess
from ssd.training.score import PendingScore

AREAS = (
    0,
    5,
    1024,
    np.nextafter(1024, 0),
    9216,
    np.nextafter(9216, 1e9),
    20000,
    1e10,
    1.5e10,
)  # px^2, at the borders


def as_scored_set(dataset, path="odd.json"):
    """COCO annotations as ground truth, unchecked: with everything that the loader would refuse
    or leave out."""
    images, categories = (
        sorted(row["id"] for row in dataset[name]) for name in ("images", "categories")
    )
    rows = [
        row
        for row in dataset["annotations"]
        if row["image_id"] in images and row["category_id"] in categories
    ]
    columns = [
        [images.index(row["image_id"]) for row in rows],
        [categories.index(row["category_id"]) for row in rows],
        [row["bbox"] for row in rows],
        [row["area"] for row in rows],
        [row["iscrowd"] for row in rows],
    ]
    image, category, boxes, area, crowd = (
        np.array(column, kind)
        for column, kind in zip(columns, (np.int64, np.int64, np.float64, np.float64, np.int64))
    )
    names = {row["id"]: row["name"] for row in dataset["categories"]}
    return ScoredSet(
        GroundTruth(
            len(images), len(categories), image, category, boxes.reshape(-1, 4), area, crowd
        ),
        images,
        {number: names[number] for number in categories},
        dict.fromkeys(images, ""),
        str(path),
    )


def score_directly(annotation_file, rows):
    """pycocotools, used as in its example: stats (12,), class_precision (categories,),
    printed."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        truth = COCO(str(annotation_file))
        if rows:
            found = truth.loadRes([dict(row) for row in rows])
        else:  # loadRes takes no empty list
            found = COCO()
            found.dataset = dict(truth.dataset, annotations=[])
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    per_class = np.moveaxis(evaluation.eval["precision"][:, :, :, 0, -1], 2, 0)
    return SimpleNamespace(
        stats=evaluation.stats.tolist(),
        printed=printed.getvalue(),
        class_precision=[one[one > -1].mean() if (one > -1).any() else -1 for one in per_class],
    )


def score_of_run(dataset, rows, folder):
    """The twelve numbers that a run on the validation set `dataset` gives for rows of COCO's
    results format: by its own code and through its files in `folder`, but the scorer runs in this
    process."""
    found = {int(number): index for index, number in enumerate(dataset.image_ids)}
    array = np.array(
        [
            [
                found[row["image_id"]],
                *row["bbox"],
                row["score"],
                1 + dataset.category_ids.index(row["category_id"]),
            ]
            for row in rows
        ]
    ).reshape(-1, 7)
    ranks = SimpleNamespace(rank=0, all_from_first=lambda values, name: values)
    os.makedirs(folder, exist_ok=True)
    with mock.patch.object(pending, "ScoringProcess", _InThisProcess):
        own = PendingScore(dataset, str(folder), ranks)
        own.start(1, 10, array)
        return own.take().stats


class _InThisProcess(ScoringProcess):
    """Run the program of a ScoringProcess."""

    def start(self, annotation_file, detections, folder, name="detections"):
        path = os.path.join(folder, name + ".npz")
        detections.to_npz(path)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert scoring_child.main(["--annotations", annotation_file, "--detections", path]) == 0
        self._stats = json.loads(printed.getvalue())

    def poll(self):
        return self._stats


def random_ids(random, count, below):
    """Different ids, some beyond 32 bits, some that float64 cannot distinguish."""
    ids = random.choice(below, count, replace=False)
    start = random.choice([0, 0, 2**31, 2**53, -500])
    return [int(one) + int(start) * int(random.integers(2) or start < 0) for one in ids]


def random_box(random, side):
    box = random.integers(0, side, 4).astype(float)  # integers: IoU thresholds are met exactly
    kind = random.random()
    if kind < 0.1:
        box[2 + random.integers(2)] = 0
    elif kind < 0.3:
        box[2:] = random.choice([32, 96])
    elif kind < 0.35:
        box[:2] -= side
    elif kind < 0.6:
        box += random.random(4)
    return box.tolist()


def random_set(seed):
    """(COCO annotations, rows of COCO's results format), shuffled both."""
    random = np.random.default_rng(seed)
    images, categories = (
        random_ids(random, random.integers(1, 7), 1000),
        random_ids(random, random.integers(1, 5), 90),
    )
    labelled = categories[: random.integers(0, len(categories) + 1)]
    side = int(random.choice([40, 110, 400]))
    crowds = random.choice([0, 0.3, 1])
    annotations = []
    for image in images + [4000]:  # the last is not in the list of images
        for _ in range(random.choice([0, 1, 3, 12, 40]) if labelled else 0):
            repeated = annotations and random.random() < 0.1
            box = (
                annotations[random.integers(len(annotations))]["bbox"]
                if repeated
                else random_box(random, side)
            )
            area = box[2] * box[3] if random.random() < 0.5 else float(random.choice(AREAS))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "bbox": box,
                    "area": area,
                    "category_id": int(random.choice(labelled + [4000])),
                    "iscrowd": int(random.random() < crowds),
                }
            )
    digits, rows = int(random.choice([0, 1, 6, 12])), []
    # few digits: many ties, 0.0 and -0.0 too; 12: 1.000000000123, which float32 does not tell apart
    for image in images if random.random() < 0.95 else []:
        near = [row["bbox"] for row in annotations if row["image_id"] == image] or [
            random_box(random, side)
        ]
        labels = categories if random.random() < 0.7 else categories[:1]
        for _ in range(random.choice([0, 1, 20, 130, 260], p=[0.2, 0.2, 0.3, 0.2, 0.1])):
            box = (
                near[random.integers(len(near))]
                if random.random() < 0.6
                else random_box(random, side)
            )
            box = np.add(box, random.choice([0, 1, 5]) * random.random(4))
            box[2:] = np.abs(box[2:])
            score = random.random() * random.choice([1, 1, -1]) * (1e-9 if digits == 12 else 1) + (
                digits == 12
            )
            rows.append(
                {
                    "image_id": image,
                    "category_id": int(random.choice(labels)),
                    "bbox": box.tolist(),
                    "score": float(np.round(score, digits)),
                }
            )
    random.shuffle(annotations)
    random.shuffle(rows)
    return {
        "images": [{"id": image} for image in images],
        "annotations": annotations,
        "categories": [{"id": category, "name": "class %d" % category} for category in categories],
    }, rows


def near_rows(annotation_file, seed, per_image=40):
    """Rows of COCO's results format around the boxes of a real annotation file: hits, near misses,
    wrong classes."""
    random = np.random.default_rng(seed)
    with open(annotation_file, encoding="utf-8") as file:
        dataset = json.load(file)
    categories = [row["id"] for row in dataset["categories"]]
    rows = []
    for image in dataset["images"]:
        truth = [row for row in dataset["annotations"] if row["image_id"] == image["id"]]
        for _ in range(per_image if truth else 3):
            nothing = {"bbox": [1, 2, 30, 40], "category_id": categories[0]}
            one = truth[random.integers(len(truth))] if truth else nothing
            rows.append(
                {
                    "image_id": image["id"],
                    "score": float(np.round(random.random(), 3)),
                    "bbox": np.abs(np.multiply(one["bbox"], random.normal(1, 0.08, 4))).tolist(),
                    "category_id": one["category_id"]
                    if random.random() < 0.8
                    else int(random.choice(categories)),
                }
            )
    return rows
