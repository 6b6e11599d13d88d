"""Mode score: COCO's twelve numbers of many synthetic detections."""

from __future__ import annotations

import json
import os
import tempfile

import numpy as np

from ssd.benchmark.machine import describe_machine
from ssd.benchmark.request import Request
from ssd.benchmark.timing import as_parts, peak_memory, spread, times_of
from ssd.errors import UserError

BOXES_PER_IMAGE = 36781 / 5000  # of instances_val2017.json
SIDE = 640  # of a synthetic image [pixels]


def measure(request: Request) -> dict:
    """Measure; docs/benchmarking.md describes the result."""
    from ssd.evaluation.scoring import read_ground_truth, score_detections, scored_rows
    from ssd.evaluation.scoring_backends import load_scorer

    for flag, number in (
        ("--images", request.images),
        ("--detections", request.detections),
        ("--categories", request.categories),
    ):
        if number < 1:
            raise UserError(f"{flag} {number}: must be at least 1")
    scorer = load_scorer(request.scorer)
    steps, warmup = request.counts(5, 1)
    before = peak_memory()
    with tempfile.TemporaryDirectory(prefix="ssd-benchmark-") as folder:
        path = request.annotations
        if not path:
            path = os.path.join(folder, "annotations.json")
            write_annotations(path, request.images, request.categories)
        known = read_ground_truth(path)
        truth, images, categories = known.boxes, known.images, known.categories
        found = synthetic_detections(truth, images, list(categories), request.detections)
        made = peak_memory()
        seconds = times_of(lambda: score_detections(path, found, scorer=scorer.name), steps, warmup)
        peak = peak_memory()
        rows = scored_rows(found, images, categories, path)
        parts = as_parts(
            {
                "read annotations": times_of(lambda: read_ground_truth(path), steps),
                "check and arrange": times_of(
                    lambda: scored_rows(found, images, categories, path), steps
                ),
                "score": times_of(lambda: scorer.score(truth, rows), steps),
            }
        )
    return dict(
        images=truth.images,
        boxes=len(truth.image),
        categories=truth.categories,
        detections=len(found),
        data=request.annotations or "synthetic annotations, synthetic detections",
        scorer=str(scorer),
        warmup=warmup,
        steps=steps,
        step_seconds=spread(seconds),
        images_per_second=spread(truth.images / seconds),
        detections_per_second=spread(len(found) / seconds),
        parts=parts,
        memory=dict(peak_rss_bytes=peak, rss_before_bytes=before, with_detections_bytes=made),
        machine=describe_machine(),
    )


def write_annotations(path: str, images: int, categories: int) -> None:
    """Write a COCO instances file of so many images and categories, with as many boxes per image as
    COCO's validation set; the same for the same arguments."""
    random = np.random.default_rng(0)
    count = max(1, round(images * BOXES_PER_IMAGE))
    boxes = random_boxes(random, count).round(2).tolist()
    image_ids = random.integers(1, images + 1, count).tolist()
    category_ids = random_categories(random, count, categories).tolist()
    rows = [
        dict(
            id=number,
            image_id=image,
            category_id=category,
            bbox=box,
            area=box[2] * box[3],
            iscrowd=0,
        )
        for number, (image, category, box) in enumerate(
            zip(image_ids, category_ids, boxes), start=1
        )
    ]
    with open(path, "w", encoding="utf-8") as file:
        json.dump(
            dict(
                images=[
                    dict(id=image, width=SIDE, height=SIDE, file_name=f"{image:012d}.jpg")
                    for image in range(1, images + 1)
                ],
                categories=[
                    dict(id=category, name=f"class {category}")
                    for category in range(1, categories + 1)
                ],
                annotations=rows,
            ),
            file,
        )


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) xywh in pixels, inside an image; sides of at least 8 pixels, uniform in their
    logarithm."""
    sizes = SIDE ** random.uniform(np.log(8) / np.log(SIDE), 1, (count, 2))
    return np.concatenate([random.uniform(0, SIDE - sizes), sizes], axis=1)


def random_categories(random: np.random.Generator, count: int, categories: int) -> np.ndarray:
    """(count,) from 1 to `categories`; of 80 the first is 80 times as frequent as the last, because
    frequencies differ as much in COCO."""
    weights = 1.0 / np.arange(1, categories + 1)
    return random.choice(categories, count, p=weights / weights.sum()) + 1


def synthetic_detections(truth, images, categories, count: int):
    """`count` Detections for a GroundTruth: half of them near one of its boxes, four in five of
    these with its category; the rest anywhere. images, categories: the sorted ids that truth's
    indices refer to."""
    from ssd.evaluation.detections import Detections

    random = np.random.default_rng(1)
    if not len(truth.image):
        raise UserError("--annotations: the file has no box to measure with")
    near = random.random(count) < 0.5
    chosen = random.integers(0, len(truth.image), count)
    image = np.where(near, truth.image[chosen], random.integers(0, truth.images, count))
    right = near & (random.random(count) < 0.8)
    category = np.where(right, truth.category[chosen], random.integers(0, truth.categories, count))
    boxes = np.where(
        near[:, None],
        truth.boxes_xywh[chosen] * random.normal(1, 0.05, (count, 4)),
        random_boxes(random, count),
    )
    score = random.random(count) ** np.where(near, 1, 3)
    order = np.argsort(image, kind="stable")  # as inference returns them
    return Detections(
        np.asarray(images)[image[order]],
        np.abs(boxes[order]),
        score[order],
        np.asarray(categories)[category[order]],
    )
