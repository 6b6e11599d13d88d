"""Prints the end of the quickstart: the mAP, the result of the official checker, the files.

Usage: quickstart_summary.py RUN_FOLDER DATA_FOLDER. Exit status 0 if the target was reached and the
log accepted by the checker of its rules.
"""

from __future__ import annotations

import csv
import json
import os
import sys

import numpy as np

from ssd.config import differences, load_recipe
from ssd.evaluation.scored_set import images_and_objects
from ssd.mlperf import check_log
from ssd.rules import RULES

SCORE_SHOWN = 0.3  # detections below are left out of the image
COLUMNS, ROWS, CELL = 4, 3, 320


def last_evaluation(run_folder: str) -> int:
    """The epoch whose detections were scored last."""
    with open(os.path.join(run_folder, "evaluation.csv"), encoding="utf-8") as file:
        return int(list(csv.DictReader(file))[-1]["epoch"])


def training_speed(run_folder: str) -> str:
    """Median training speed as text; the first row of train.csv has none yet."""
    with open(os.path.join(run_folder, "train.csv"), encoding="utf-8") as file:
        speeds = [float(row["images_per_second"]) for row in csv.DictReader(file)][1:]
    return f"{np.median(speeds):.1f} images/s" if speeds else "not measured in so few steps,"


def draw_detections(run_folder: str, config, epoch: int) -> str:
    """Draws ground truth and detections on validation images. Returns the file's path."""
    import cv2

    from ssd.datasets.coco import load_coco
    from ssd.datasets.locate import dataset_paths
    from ssd.drawing import class_colors, draw_boxes, mosaic, save_image
    from ssd.evaluation.detections import Detections

    dataset = load_coco(
        *dataset_paths(config, "val"),
        check_images="exists",
        require_boxes=False,
        report=lambda line: None,
    )
    found = Detections.from_npz(os.path.join(run_folder, f"detections-epoch-{epoch}.npz"))
    names = dict(zip(dataset.category_ids, dataset.category_names))
    colors = class_colors(dataset.category_names)
    images = []
    for index in range(min(COLUMNS * ROWS, dataset.num_images)):
        path = os.path.join(dataset.image_folder, dataset.file_names[index])
        image = np.ascontiguousarray(cv2.imread(path)[:, :, ::-1])
        truth = dataset.box_image == index
        # Ground truth is dashed and has no name, to leave room for the detections' names.
        image = draw_boxes(image, dataset.boxes_ltrb[truth], [""] * int(truth.sum()))
        chosen = (found.image_id == dataset.image_ids[index]) & (found.score >= SCORE_SHOWN)
        boxes = found.boxes_xywh[chosen]
        images.append(
            draw_boxes(
                image,
                np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
                [names[category] for category in found.category_id[chosen]],
                found.score[chosen],
                colors,
            )
        )
    path = os.path.join(run_folder, "detections.png")
    save_image(path, mosaic(images, COLUMNS, CELL))
    return path


def division_in(log: str) -> str:
    """The division that a log names."""
    with open(log, encoding="utf-8") as file:
        events = (
            json.loads(line[line.index("{") :]) for line in file if line.startswith(":::MLLOG")
        )
        return next(event["value"] for event in events if event["key"] == "submission_division")


def scored_on(summary: dict) -> str:
    """Text on how many images and objects were scored; "" if the summary does not have it."""
    known = "eval_images" in summary
    return (
        f" on {images_and_objects(summary['eval_images'], summary['eval_objects'])}"
        if known
        else ""
    )


def relative_to_here(path: str) -> str:
    """A path below the current folder relative to it; any other path unchanged."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def main(run_folder: str, data_folder: str) -> int:
    with open(os.path.join(run_folder, "summary.json"), encoding="utf-8") as file:
        summary = json.load(file)
    config = load_recipe(os.path.join(run_folder, "recipe.yaml")).with_values(data_dir=data_folder)
    ruleset = RULES[config.run.rules].ruleset
    accepted, output = (
        check_log(os.path.join(run_folder, "mlperf.log"), ruleset) if ruleset else (True, "")
    )
    image = draw_detections(run_folder, config, last_evaluation(run_folder))
    reached = summary["status"] == "success"
    changes = differences(
        config,
        load_recipe(RULES[config.run.rules].closed_recipe or "ssd-resnet34-coco"),
        ("model", "default_boxes", "loss", "detection", "augmentation", "training", "evaluation"),
    )
    division = division_in(os.path.join(run_folder, "mlperf.log"))
    minutes, seconds = divmod(round(summary["seconds"]), 60)
    print()
    print("Quickstart: the benchmark in small")
    print(
        "  differs in: "
        + "; ".join(
            f"{name.split('.')[1]} {ours} instead of {theirs}" for name, theirs, ours in changes
        )
    )
    print(
        f"  mAP              {summary['best_map']:.4f}{scored_on(summary)} (target "
        f"{summary['target']}, {'reached' if reached else 'NOT reached'})"
    )
    print(
        f"  time to target   {minutes} min {seconds} s, {summary['steps']} steps of "
        f"{summary['images'] // summary['steps']} images, evaluations included"
        if reached
        else f"  time             {minutes} min {seconds} s"
    )
    print(
        f"  training speed   {training_speed(run_folder)} on {summary['ranks']} "
        f"rank{'s' if summary['ranks'] > 1 else ''}"
    )
    print(f"  seed             {summary['seed']}")
    result = f"{'SUCCESS' if accepted else 'FAILURE'}, rules {ruleset}, {division} division"
    print(f"  MLPerf checker   {result if ruleset else 'not run'}")
    for label, name in (
        ("log", "mlperf.log"),
        ("weights", "weights.params"),
        ("detections", image),
        ("curves", "curves.png"),
        ("report", "report.html"),
    ):
        path = os.path.join(run_folder, os.path.basename(name))
        if os.path.exists(path):  # --no-report leaves two of them out
            print(f"  {label:<16} {relative_to_here(path)}")
    if not accepted:
        print(output, file=sys.stderr)
    return 0 if reached and accepted else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
