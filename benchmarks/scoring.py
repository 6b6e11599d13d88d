"""What a score costs: the default scorer against pycocotools, alternating, on a generated set of
COCO's proportions.

    python benchmarks/scoring.py [--images 5000] [--detections 1000000] [--rounds 3] [--scorers
    hotcoco pycocotools]

Prints the numbers of scoring.md. Every scoring is a process of its own, so that its peak memory is
its own; the time is that of score_detections, reading the annotation file (masks and all) included,
the detections in memory as arrays. The random set has val2017's 36,781 boxes per 5,000 images, 80
categories of very different frequency, one box in a hundred a crowd; half of the detections lie
near a box.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks.turns import peak_megabytes, ratios, spread
from ssd.evaluation.detections import Detections
from ssd.evaluation.scoring import STAT_NAMES, score_detections
from ssd.evaluation.scoring_backends import load_scorer

CATEGORIES = 80
BOXES_PER_IMAGE = 36781 / 5000  # instances_val2017.json
SIDE = 640


def write_set(folder, images, detections):
    """annotations.json and detections.npz; the same for the same numbers."""
    random = np.random.default_rng(0)
    image_ids = np.sort(random.choice(600000, images, replace=False))
    frequency = 1 / np.arange(1, CATEGORIES + 1)

    def boxes(count):
        sizes = np.exp(random.uniform(np.log(8), np.log(SIDE), (count, 2)))
        return np.round(np.concatenate([random.uniform(0, SIDE - sizes), sizes], axis=1), 2)

    count = round(images * BOXES_PER_IMAGE)
    image, box = random.integers(0, images, count), boxes(count)
    category = random.choice(CATEGORIES, count, p=frequency / frequency.sum())
    crowd = (random.random(count) < 0.01).astype(int)
    corners = (
        box[:, None, :2] + random.random((count, 20, 2)) * box[:, None, 2:]
    )  # a mask's share of the file
    rows = [
        {
            "id": number,
            "image_id": int(image_ids[place]),
            "category_id": int(label) + 1,
            "bbox": one,
            "area": one[2] * one[3] * 0.6,
            "iscrowd": int(is_crowd),
            "segmentation": [mask],
        }
        for number, (place, label, one, is_crowd, mask) in enumerate(
            zip(
                image,
                category,
                box.tolist(),
                crowd,
                np.round(corners.reshape(count, 40), 2).tolist(),
            ),
            start=1,
        )
    ]
    with open(os.path.join(folder, "annotations.json"), "w") as file:
        json.dump(
            {
                "images": [
                    {"id": int(one), "width": SIDE, "height": SIDE, "file_name": "%012d.jpg" % one}
                    for one in image_ids
                ],
                "categories": [
                    {"id": number, "name": str(number)} for number in range(1, CATEGORIES + 1)
                ],
                "annotations": rows,
            },
            file,
        )

    near = random.random(detections) < 0.5
    chosen = random.integers(0, count, detections)
    found = np.where(
        near[:, None], box[chosen] * random.normal(1, 0.05, (detections, 4)), boxes(detections)
    )
    found_image = np.where(near, image[chosen], random.integers(0, images, detections))
    found_category = np.where(
        near & (random.random(detections) < 0.8),
        category[chosen],
        random.choice(CATEGORIES, detections, p=frequency / frequency.sum()),
    )
    score = random.random(detections) ** np.where(near, 1, 3)
    order = np.argsort(found_image, kind="stable")  # inference returns image after image
    Detections(
        image_ids[found_image[order]], np.abs(found[order]), score[order], found_category[order] + 1
    ).to_npz(os.path.join(folder, "detections.npz"))


def measure_here(scorer, folder):
    """In the child: one line of JSON about one scoring."""
    found = Detections.from_npz(os.path.join(folder, "detections.npz"))
    load_scorer(scorer)
    before = peak_megabytes()
    start, processor = time.perf_counter(), time.process_time()
    stats = score_detections(os.path.join(folder, "annotations.json"), found, scorer=scorer)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - start,
                "processor": time.process_time() - processor,
                "megabytes": peak_megabytes(),
                "before": before,
                "stats": [stats[name] for name in STAT_NAMES],
            }
        )
    )


def measure(scorer, folder):
    child = subprocess.run(
        [sys.executable, os.path.abspath(__file__), "--child", folder, "--scorers", scorer],
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(child.stdout)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=1000000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scorers", nargs="+", default=["hotcoco", "pycocotools"])
    parser.add_argument("--child", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        measure_here(args.scorers[0], args.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_set(folder, args.images, args.detections)
        results = {scorer: [] for scorer in args.scorers}
        for _ in range(args.rounds):
            for scorer in args.scorers:
                results[scorer].append(measure(scorer, folder))
    print(
        "%d images, %d detections, %d rounds; median (least to most)"
        % (args.images, args.detections, args.rounds)
    )
    print("%-24s %-26s %-26s %s" % ("", "seconds", "processor seconds", "peak MB (before)"))
    for scorer, runs in results.items():
        print(
            "%-24s %-26s %-26s %.0f (%.0f)"
            % (
                load_scorer(scorer),
                spread([run["seconds"] for run in runs]),
                spread([run["processor"] for run in runs]),
                max(run["megabytes"] for run in runs),
                min(run["before"] for run in runs),
            )
        )
    first, *others = results
    for scorer in others:
        fast, slow = ([run["seconds"] for run in results[name]] for name in (first, scorer))
        apart = np.abs(np.subtract(results[first][0]["stats"], results[scorer][0]["stats"])).max()
        print(
            "{} / {}, round by round: {}; the twelve numbers differ by {:.1g} at most".format(
                scorer, first, spread(ratios(slow, fast), "%.1f"), apart
            )
        )


if __name__ == "__main__":
    main()
