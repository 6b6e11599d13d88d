"""Of benchmarks/growth.py: data sets that grow. Points are numbers of images, with COCO's 7.27
boxes each."""

from __future__ import annotations

import json
import os
import shutil
import tempfile

BOXES_PER_IMAGE = 860001 / 118287  # instances_train2017.json
BLOCK = 10000  # images that are written at a time
DETECTIONS_PER_IMAGE = 100


def _folder(point: str, folder: str, kind: str = "coco") -> str:
    return os.path.join(folder, f"{kind}-{point}")


def annotations(point: str, folder: str) -> None:
    """annotations.json of random boxes in 80 categories, and a folder of as many empty image
    files."""
    import numpy as np

    subfolder, images = _folder(point, folder), int(point)
    if os.path.exists(os.path.join(subfolder, "annotations.json")):
        return
    os.makedirs(os.path.join(subfolder, "images"), exist_ok=True)
    random, boxes = np.random.default_rng(0), 0
    names = [f"{12 + 5 * index:012d}.jpg" for index in range(images)]
    for name in names:
        open(os.path.join(subfolder, "images", name), "wb").close()
    partial = os.path.join(subfolder, "partial")
    with open(partial, "w", encoding="ascii") as file:
        file.write(
            '{"images":['
            + ",".join(
                '{"id":%d,"file_name":"%s","width":640,"height":480}' % pair
                for pair in enumerate(names)
            )
        )
        file.write('],"annotations":[')
        for first in range(0, images, BLOCK):
            count = min(BLOCK, images - first)
            rows = round(count * BOXES_PER_IMAGE)
            owner = first + np.sort(random.integers(0, count, rows))
            corner = random.uniform(0, [400, 300], (rows, 2)).round(2)
            extent = random.uniform(1, [240, 180], (rows, 2)).round(2)
            columns = (
                range(boxes, boxes + rows),
                owner.tolist(),
                random.integers(1, 81, rows).tolist(),
                *corner.T.tolist(),
                *extent.T.tolist(),
            )
            file.write(
                "," * (first > 0)
                + ",".join(
                    '{"id":%d,"image_id":%d,"category_id":%d,"bbox":[%s,%s,%s,%s],'
                    '"area":100.0,"iscrowd":0}' % row
                    for row in zip(*columns)
                )
            )
            boxes += rows
        file.write(
            '],"categories":'
            + json.dumps([{"id": number, "name": f"category {number}"} for number in range(1, 81)])
            + "}"
        )
    os.replace(partial, os.path.join(subfolder, "annotations.json"))


def _load(subfolder: str, cache):
    from ssd.datasets.coco import load_coco

    return load_coco(
        os.path.join(subfolder, "annotations.json"),
        os.path.join(subfolder, "images"),
        check_images="exists",
        cache_dir=cache,
        report=lambda line: None,
    )


def kept_result(point: str, folder: str) -> None:
    annotations(point, folder)
    subfolder = _folder(point, folder)
    if not os.path.exists(os.path.join(subfolder, "cache")):
        _load(subfolder, os.path.join(subfolder, "cache"))


def load(point, folder, measure) -> None:
    import ssd.datasets.coco  # noqa: F401

    subfolder, cache = _folder(point, folder), tempfile.mkdtemp(dir=folder)
    loaded = measure(
        lambda: _load(subfolder, None) if os.listdir(cache) else _load(subfolder, cache)
    )
    measure.note(boxes=len(loaded.box_image))
    shutil.rmtree(cache)


def kept(point, folder, measure) -> None:
    import ssd.datasets.coco  # noqa: F401

    subfolder = _folder(point, folder)
    measure(lambda: _load(subfolder, os.path.join(subfolder, "cache")))


def rank(point, folder, measure) -> None:
    from ssd.config import load_recipe
    from ssd.data.samples import SampleMaker, epoch_order

    subfolder, config = _folder(point, folder), load_recipe("ssd-resnet34-coco")

    def prepare():
        dataset = _load(subfolder, os.path.join(subfolder, "cache")).for_training()
        indices = dataset.images_with_boxes
        return SampleMaker(config, dataset, 0), indices, epoch_order(indices, 0, 1)

    measure(prepare)


def order(point, folder, measure) -> None:
    from ssd.data.samples import epoch_order

    subfolder = _folder(point, folder)
    indices = _load(subfolder, os.path.join(subfolder, "cache")).images_with_boxes
    measure(lambda: epoch_order(indices, 0, 1))


def split(point, folder, measure) -> None:
    from ssd.datasets.split import split_file

    subfolder = _folder(point, folder)

    def once():
        with tempfile.TemporaryDirectory(dir=folder) as target:
            split_file(os.path.join(subfolder, "annotations.json"), target, 0.1)

    measure(once)


def dali(point, folder, measure) -> None:
    from ssd.data.dali_annotations import write_dali_annotations

    subfolder = _folder(point, folder)
    dataset = _load(subfolder, os.path.join(subfolder, "cache"))
    target = os.path.join(subfolder, "dali.json")
    measure(lambda: write_dali_annotations(dataset, dataset.images_with_boxes, target))
    os.remove(target)


def detections(point: str, folder: str) -> None:
    """annotations.json and detections.npz of benchmarks/scoring.py."""
    from benchmarks.scoring import write_set

    subfolder = _folder(point, folder, "scored")
    if not os.path.exists(os.path.join(subfolder, "detections.npz")):
        os.makedirs(subfolder, exist_ok=True)
        write_set(subfolder, int(point), int(point) * DETECTIONS_PER_IMAGE)


def written(point: str, folder: str) -> None:
    detections(point, folder)
    path = os.path.join(_folder(point, folder, "scored"), "detections.json")
    if not os.path.exists(path):
        _detections(_folder(point, folder, "scored")).to_json(path)


def _detections(subfolder: str):
    from ssd.evaluation.detections import Detections

    return Detections.from_npz(os.path.join(subfolder, "detections.npz"))


def score(point, folder, measure) -> None:
    _score(_folder(point, folder, "scored"), measure)


def _score(subfolder: str, measure) -> None:
    from ssd.evaluation.scoring import score_detections
    from ssd.evaluation.scoring_backends import load_scorer

    load_scorer()
    found = _detections(subfolder)
    measure(lambda: score_detections(os.path.join(subfolder, "annotations.json"), found))


def confusion(point, folder, measure) -> None:
    from ssd.evaluation.confusion import best_threshold, count_confusion, match_any_class
    from ssd.evaluation.scoring import read_ground_truth, scored_rows

    subfolder = _folder(point, folder, "scored")
    truth = read_ground_truth(os.path.join(subfolder, "annotations.json"))
    rows = scored_rows(_detections(subfolder), truth.images, truth.categories, "annotations.json")

    def once():
        matches = match_any_class(truth.boxes, rows)
        return count_confusion(matches, best_threshold(matches))

    measure(once)


def write(point, folder, measure) -> None:
    subfolder = _folder(point, folder, "scored")
    found, path = _detections(subfolder), os.path.join(subfolder, "again.json")
    measure(lambda: found.to_json(path))
    os.remove(path)


def read(point, folder, measure) -> None:
    from ssd.evaluation.detections import Detections

    path = os.path.join(_folder(point, folder, "scored"), "detections.json")
    measure(lambda: Detections.from_json(path))


def detections_of_classes(point: str, folder: str) -> None:
    """5,000 images in so many categories."""
    from benchmarks import scoring

    subfolder = _folder(point, folder, "classes")
    if not os.path.exists(os.path.join(subfolder, "detections.npz")):
        os.makedirs(subfolder, exist_ok=True)
        scoring.CATEGORIES = int(point)
        scoring.write_set(subfolder, 5000, 5000 * DETECTIONS_PER_IMAGE)


def score_classes(point, folder, measure) -> None:
    _score(_folder(point, folder, "classes"), measure)
