"""Pictures of augmented training batches with their boxes, to look at what the network really gets."""
from __future__ import annotations

import os
from typing import List

import numpy as np

from ssd.config import Config
from ssd.data.coco import CocoDataset


def denormalise(images: np.ndarray, config: Config) -> np.ndarray:
    """Network input (batch, 3 or 4, side, side), or channels last, to (batch, side, side, 3) uint8 RGB."""
    images = images.astype(np.float32)
    images = (images.transpose(0, 2, 3, 1) if config.model.layout == "NCHW" else images)[..., :3]
    values = images * np.float32(config.data.pixel_std) + np.float32(config.data.pixel_mean)
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def show_batches(config: Config, dataset: CocoDataset, folder: str, batches: int = 2, seed: int = 0,
                 columns: int = 4) -> List[str]:
    """Writes `batches` training batches, read on the CPU, as PNG mosaics with boxes and class names into
    `folder`.

    Returns the files' paths. The pixels are the network's input, turned back into colours. UserError as of
    `TrainingLoader`.
    """
    from ssd.data.pipeline import TrainingLoader
    from ssd.drawing import draw_boxes, mosaic, save_image
    os.makedirs(folder, exist_ok=True)
    loader = TrainingLoader(config.with_values(decode="cpu"), dataset, None, seed=seed, raw_boxes=True)
    paths = []
    for number in range(batches):
        batch = next(loader)
        images = denormalise(batch.images.asnumpy(), config)
        side = images.shape[1]
        tiles = [draw_boxes(image, boxes * side, [dataset.category_names[label - 1] for label in labels.ravel()])
                 for image, boxes, labels in zip(images, batch.boxes, batch.labels)]
        paths.append(os.path.join(folder, f"batch{number}.png"))
        save_image(paths[-1], mosaic(tiles, columns, side))
    loader.close()
    return paths
