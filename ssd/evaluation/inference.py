"""The network on a data set: detections in COCO's terms."""

from __future__ import annotations

import sys
from typing import Callable, Iterable, Optional

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from ssd.model.boxes.formats import ltrb_to_xywh
from ssd.model.detector import Detector
from ssd.model.weights import read_ranges

COLUMNS = 7  # image index, x, y, w, h, score, class


class Inference(HybridBlock):
    """Network and post-processing as one graph: images to detections (see ssd.model.detections).

    On a CPU, oneDNN folds each BatchNorm into the convolution before it and fuses the addition and
    ReLU after it. MXNet keeps the folded weights, so call `build` after any change of the
    network's tensors.
    """

    def __init__(self, network: HybridBlock, detections: HybridBlock, device_kind: str, **kwargs):
        super().__init__(**kwargs)
        self.network, self.detections, self.device_kind = network, detections, device_kind
        self.build()

    @property
    def in_pixels(self) -> bool:
        """Whether detections depend on the original images' sizes: then these are a second input
        (B, 2), width and height [pixels]. Without it the images count as having the network's
        input size."""
        return getattr(self.detections, "in_pixels", False)

    def hybrid_forward(self, F, images, *sizes):
        return self.detections(*self.network(images), *sizes)

    def build(self) -> None:
        """Compile a static graph of the current weights and running statistics at the next call
        (0.1 s)."""
        fused = self.device_kind == "cpu" and mx.runtime.Features().is_enabled("MKLDNN")
        self.hybridize(backend="MKLDNN" if fused else None, static_alloc=True, static_shape=True)


def build_inference(detector: Detector, device, weights: Optional[str] = None) -> Inference:
    """The hybridized inference graph of a detector whose network is initialised. weights: the file
    of its weights; if it holds ranges (`python -m ssd quantize`), the network computes in 8-bit
    integers on a CPU."""
    detector.detections.initialize(ctx=device.context)
    network, ranges = detector.network, None if weights is None else read_ranges(weights)
    if ranges is not None and not (
        device.kind == "cpu" and mx.runtime.Features().is_enabled("MKLDNN")
    ):
        print(
            f"{weights}: computing in floating point, as 8-bit integers need a CPU and an MXNet "
            "with oneDNN",
            file=sys.stderr,
            flush=True,
        )
    elif ranges is not None:
        from ssd.model.int8 import quantize

        network = quantize(network, ranges)[0]
        print(f"{weights}: computing in 8-bit integers", file=sys.stderr, flush=True)
    return Inference(network, detector.detections, device.kind)


def detection_rows(outputs: np.ndarray, indices: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Outputs (B, K, 6) of images `indices` (n <= B; further rows are padding) to (m, 7) float64
    rows: image index, x, y, w, h in pixels of the original image (not clipped), score, class.

    `sizes`: (images, 2) width and height of every image of the data set.
    """
    outputs = outputs[: len(indices)].astype(np.float64)
    image, row = np.nonzero(outputs[:, :, 0] > 0)
    label, score, ltrb = np.split(outputs[image, row], [1, 2], axis=1)
    pixels = np.tile(sizes[indices[image]], 2).reshape(-1, 4)
    boxes = ltrb_to_xywh(ltrb * pixels)
    return np.concatenate([indices[image].reshape(-1, 1), boxes, score, label], axis=1)


def detect(
    inference: HybridBlock,
    loader: Iterable,
    sizes: np.ndarray,
    before_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Detections of one pass over an evaluation loader, as `detection_rows`. Calls `before_batch`
    before each batch."""
    parts = [np.empty((0, COLUMNS))]
    waiting = None
    for images, indices in loader:
        before_batch()
        size_input = []
        if getattr(inference, "in_pixels", False):  # rows beyond the indices are padding
            batch_sizes = np.resize(sizes[indices], (images.shape[0], 2))
            size_input = [mx.nd.array(batch_sizes, ctx=images.context)]
        outputs = inference(images, *size_input)
        if waiting is not None:  # read a batch only once the next one is queued
            parts.append(detection_rows(waiting[0].asnumpy(), waiting[1], sizes))
        waiting = outputs, indices
    if waiting is not None:
        parts.append(detection_rows(waiting[0].asnumpy(), waiting[1], sizes))
    return np.concatenate(parts)
