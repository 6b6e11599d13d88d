"""Runs on each rank of test_every_image_once.py: evaluates with a detector that finds one object in
every image, whose score identifies the image, for several batch sizes."""

import sys

import mxnet as mx
import numpy as np

from ssd.config import load_recipe
from ssd.data.pipeline import EvaluationLoader
from ssd.datasets.coco import load_coco
from ssd.evaluation.inference import detect
from ssd.training.ranks import Ranks

annotations, images = sys.argv[1:]
ranks = Ranks()
dataset = load_coco(annotations, images, require_boxes=False, report=lambda line: None)


def brightest(batch):
    """One detection per image, whose score is the image's brightness. The last batch is padded."""
    found = np.zeros((len(batch), 3, 6), np.float32)
    found[:, 0] = [1, 0, 0.1, 0.2, 0.5, 0.6]
    found[:, 0, 1] = (batch.asnumpy().mean((1, 2, 3)) + 3) / 10
    return mx.nd.array(found)


for batch in (1, 3, 8):
    config = load_recipe("ssd-resnet34-coco").with_values(eval_batch_size=batch, image_size=32)
    loader = EvaluationLoader(config, dataset, rank=ranks.rank, size=ranks.size)
    for turn in range(2):
        rows = ranks.gather(detect(brightest, loader, dataset.sizes), f"detections {batch} {turn}")
        rows = rows[np.argsort(rows[:, 0])]
        assert rows[:, 0].astype(int).tolist() == list(range(dataset.num_images)), (
            batch,
            turn,
            rows[:, 0],
        )
        # Image i has the grey value 10 i, so its score identifies it.
        assert (np.diff(rows[:, 5]) > 0).all(), (batch, turn, rows[:, 5])
    loader.close()
print(f"rank {ranks.rank} of {ranks.size}: every image once", flush=True)
ranks.close()
