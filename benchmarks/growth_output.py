"""Of benchmarks/growth.py: what is written for people, and runs that grow longer."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading

import numpy as np

PER_FRAME = 100  # detections


def _run_folder(folder: str, rows: int) -> str:
    """A run's folder with so many rows in train.csv, one in each 20 steps, and an evaluation for
    each 100 of them."""
    from ssd.config import load_recipe, to_yaml
    from ssd.evaluation.scoring import STAT_NAMES
    from ssd.training.metrics import EXTENT, TRAIN_COLUMNS

    run_folder, random = tempfile.mkdtemp(dir=folder), np.random.default_rng(0)
    with open(os.path.join(run_folder, "recipe.yaml"), "w", encoding="utf-8") as file:
        file.write(to_yaml(load_recipe("ssd-resnet34-coco")))
    noise = random.normal(1, 0.1, (rows, 3))
    with open(os.path.join(run_folder, "train.csv"), "w", encoding="utf-8") as file:
        file.write(",".join(TRAIN_COLUMNS) + "\n")
        for row in range(1, rows + 1):
            one, two, three = noise[row - 1]
            file.write(
                f"{1 + row // 100},{20 * row},{640 * row},{10 * row}.5,{one * 8 / row**0.2:.6f},"
                f"{two * 3 / row**0.2:.6f},0.0025,{three * 60:.3f},0.01000,{row}.00,0.00\n"
            )
    with open(os.path.join(run_folder, "evaluation.csv"), "w", encoding="utf-8") as file:
        file.write(",".join(("epoch", *STAT_NAMES, *EXTENT)) + "\n")
        for epoch in range(1, rows // 100 + 1):
            file.write(f"{epoch}," + "0.1," * len(STAT_NAMES) + "5000,36000\n")
    return run_folder


def report(point, folder, measure) -> None:
    from ssd.matplotlib_cache import use_writable_cache
    from ssd.report.run_report import report_run

    use_writable_cache()
    import matplotlib.figure  # noqa: F401

    run_folder = _run_folder(folder, int(point))
    path = measure(lambda: report_run(run_folder, lambda line: None))
    measure.note(kilobytes=os.path.getsize(path) // 1000)
    shutil.rmtree(run_folder)


def resume(point, folder, measure) -> None:
    from ssd.training.metrics import Metrics

    run_folder = _run_folder(folder, int(point))
    measure(lambda: Metrics(run_folder).set_aside(2, 20 * int(point), int(point) // 100))
    shutil.rmtree(run_folder)


def report_classes(point, folder, measure) -> None:
    """500,000 detections and 50,000 objects; classes are confused at random, unlike in real use."""
    from ssd.evaluation.confusion import ConfusionCounts
    from ssd.evaluation.per_class import Evaluation
    from ssd.report import evaluation_sections

    classes, random = int(point), np.random.default_rng(0)
    names = tuple(f"category {number}" for number in range(classes))
    matrix = np.bincount(
        random.integers(0, (classes + 1) ** 2, 500000), minlength=(classes + 1) ** 2
    )
    matrix = matrix.reshape(classes + 1, classes + 1)
    nothing = np.zeros(1, np.int64)
    share = random.random(classes)
    found = Evaluation(
        {"AP": 0.3},
        tuple(range(classes)),
        names,
        share,
        share,
        share,
        np.full(classes, 100),
        np.full(classes, 1000),
        random.random((10, 101, classes)),
        nothing,
        None,
        nothing,
        "",
        [],
    )
    for name, make in (
        ("table", lambda: evaluation_sections.classes(found)),
        ("curves", lambda: evaluation_sections.precision_recall(found)),
        (
            "confusion",
            lambda: evaluation_sections.confusion(
                found, ConfusionCounts(0.5, matrix, *[nothing] * 3)
            ),
        ),
    ):
        measure.note(name, kilobytes=len(measure(make, name)) // 1000)


class _RandomPredictor:
    """A stand-in for Predictor, with PER_FRAME random detections on each image."""

    batch_size, class_names, category_ids = (
        8,
        tuple(f"category {n}" for n in range(80)),
        tuple(range(1, 81)),
    )

    def stream(self, batches):
        from ssd.tools.predictor import Detected

        random = np.random.default_rng(0)
        for batch in batches:
            results = []
            for _ in batch:
                ids = random.integers(0, 80, (PER_FRAME, 1)).astype(np.int32)
                corner = random.random((PER_FRAME, 2)) * 16
                results.append(
                    Detected(
                        ids,
                        random.random((PER_FRAME, 1)).astype(np.float32),
                        np.concatenate([corner, corner + 10], 1).astype(np.float32),
                        tuple(self.class_names[index] for index in ids[:, 0]),
                    )
                )
            yield results


class _BlackVideo:
    """A stand-in for a VideoReader whose frames are not drawn."""

    def __init__(self, frames: int):
        self._frames = frames

    def __iter__(self):
        pixels = np.zeros((32, 32, 3), np.uint8)
        return ((number / 25, pixels) for number in range(self._frames))

    def notes(self) -> str:
        return ""


def frames(point, folder, measure) -> None:
    from ssd.tools.inputs import Input
    from ssd.tools.prediction import Prediction

    def once():
        with tempfile.TemporaryDirectory(dir=folder) as output:
            prediction = Prediction(_RandomPredictor(), output, None, None, threading.Event())
            video = Input("video.mp4", "video.mp4", True)
            prediction.predict_video(_BlackVideo(int(point)), video, lambda: None)
            prediction.write()

    measure(once)


def names(point, folder, measure) -> None:
    from ssd.tools.inputs import OutputNames

    def once():
        taken = OutputNames()
        return [taken.new("frame.jpg", ".jpg") for _ in range(int(point))]

    measure(once)


def files(point: str, folder: str) -> None:
    subfolder = os.path.join(folder, f"files-{point}")
    if not os.path.exists(subfolder):
        os.makedirs(subfolder)
        for number in range(int(point)):
            open(os.path.join(subfolder, f"{number:07d}.jpg"), "wb").close()


def inputs(point, folder, measure) -> None:
    from ssd.tools.inputs import find_inputs

    measure(lambda: find_inputs([os.path.join(folder, f"files-{point}")]))


def draw(point, folder, measure) -> None:
    import cv2  # noqa: F401

    from ssd.drawing import draw_boxes

    random, count = np.random.default_rng(0), int(point)
    corner = random.uniform(0, [1800, 1000], (count, 2))
    boxes = np.concatenate([corner, corner + random.uniform(10, 100, (count, 2))], 1)
    labels = [f"category {number % 80}" for number in range(count)]
    image = np.zeros((1080, 1920, 3), np.uint8)
    measure(lambda: draw_boxes(image, boxes, labels, random.random(count)))


def shapes(point: str, folder: str) -> None:
    """200 drawn images."""
    from ssd.datasets.shapes import make_shapes

    subfolder = os.path.join(folder, "shapes")
    if not os.path.exists(subfolder):
        make_shapes(subfolder, train_images=200, val_images=1)


def show(point, folder, measure) -> None:
    from ssd.config import load_recipe
    from ssd.data.resolve import resolve
    from ssd.data.show import draw_samples, take_samples
    from ssd.datasets.locate import load_dataset
    from ssd.drawing import mosaic

    config = load_recipe("ssd-resnet34-shapes").with_values(
        data_dir=os.path.join(folder, "shapes"), device="cpu"
    )
    dataset = load_dataset(config, "train")
    config = resolve(config, dataset)

    def once():
        tiles = draw_samples(config, dataset, take_samples(config, dataset, count=int(point)))
        return [
            mosaic([pair[column] for pair in tiles], 4, max(tiles[0][0].shape[:2]))
            for column in (0, 1)
        ]

    measure(once)


def plan(point, folder, measure) -> None:
    from ssd.config import load_recipe
    from ssd.training.plan import make_plan

    config = load_recipe("ssd-resnet34-coco").with_values(
        batch_size=max(3, 912 // int(point)), epochs=100
    )
    nodes = max(1, int(point) // 8)
    made = measure(lambda: make_plan(config, nodes, int(point) // nodes))
    measure.note(
        steps_per_epoch=made["steps_per_epoch"],
        megabytes_a_rank=round(made["host_memory_per_rank"] / 1e6),
    )
