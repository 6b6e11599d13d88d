"""Weights of a tiny untrained network, which detects something everywhere."""

import mxnet as mx

from ssd.config import load_recipe
from ssd.model.detector import build_detector
from ssd.model.initialization import initialize
from ssd.model.weights import save_weights
from ssd.model.weights_info import WeightsInfo

NAMES, IDS = ("circle", "square", "triangle"), (4, 9, 7)
CONFIG = load_recipe("ssd-resnet34-shapes").with_values(
    width=0.125,
    device="cpu",
    score_threshold=0.27,
    boxes_per_image=20,
    eval_batch_size=3,
    data_threads=1,
)


def save_random(path):
    network = build_detector(CONFIG).network
    initialize(network, 1, mx.cpu())
    save_weights(network, str(path), WeightsInfo(CONFIG, IDS, NAMES))
    return str(path)
