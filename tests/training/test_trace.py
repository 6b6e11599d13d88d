"""The numbers of training do not change by accident: 20 steps and an evaluation, compared with
those stored in trace.npz.

`python -m tests.training.test_trace PATH`, run in the repository's root, writes such a file.
Replace trace.npz only after a change that is meant to change the numbers: it was computed by the
first version, before any work on its speed.

It runs in a process of its own with oneDNN's kernels for AVX2, which every machine has: AVX-512
sums in another order, and within twenty steps a rounding error of the first grows to a few per
cent.
"""

import os
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.evaluation.inference import build_inference
from ssd.model import parameters
from ssd.model.detector import build_detector
from ssd.model.device import choose_device
from ssd.model.initialization import initialize
from ssd.training.step import TrainingStep
from tests.training.one_rank import OneRank

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "trace.npz")
CONFIG = load_recipe("ssd-resnet34-shapes").with_values(
    width=0.125, batch_size=2, device="cpu", eval_batch_size=2
)
STEPS, BOXES = 20, 8732
# Added to the background's bias before detections, so that only some boxes exceed the threshold.
BACKGROUND = 3.0


def batches():
    """Four fixed batches; one image has no box, another one has three hundred."""
    rng = np.random.default_rng(11)
    for number in range(4):
        images = rng.standard_normal((2, 3, 300, 300)).astype(np.float32)
        offsets, classes = np.zeros((2, BOXES, 4), np.float32), np.zeros((2, BOXES), np.int32)
        for image, count in enumerate((0, 300) if number == 2 else (15, 40)):
            chosen = rng.choice(BOXES, count, replace=False)
            offsets[image, chosen] = rng.standard_normal((count, 4))
            classes[image, chosen] = rng.integers(1, CONFIG.model.num_classes, count)
        yield mx.nd.array(images), mx.nd.array(offsets), mx.nd.array(classes, dtype="int32")


def run():
    """Losses (STEPS, 2, 2): step, class or offsets, image; detections (2, K, 6) of the trained
    network; sums of the trained tensors' magnitudes."""
    device = choose_device(CONFIG)
    detector = build_detector(CONFIG)
    network = detector.network
    initialize(network, 7, device.context)
    step = TrainingStep(network, detector.loss, CONFIG, OneRank())
    data = list(batches())
    losses = []
    for number in range(STEPS):
        losses.append([part.asnumpy() for part in step.gradients(*data[number % 4], check=True)])
        assert step.finite()
        step.update(0.001)
    sums = {
        name: np.abs(parameter.data().asnumpy().astype(np.float64)).sum()
        for name, parameter in parameters.by_structural_name(network).items()
    }
    for head in network.predictors:
        bias = head.conv.bias.data().asnumpy()
        bias[head.boxes * 4 :].reshape(head.boxes, -1)[:, 0] += BACKGROUND
        head.conv.bias.set_data(mx.nd.array(bias))
    inference = build_inference(detector, device)
    return np.array(losses), inference(data[0][0]).asnumpy(), sums


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("trace") / "now.npz")
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.test_trace", path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=dict(os.environ, DNNL_MAX_CPU_ISA="AVX2", PYTHONPATH=ROOT),
    )
    assert done.returncode == 0, done.stderr
    with np.load(path, allow_pickle=False) as file:
        return file["losses"], file["detections"], dict(zip(file["names"].tolist(), file["sums"]))


@pytest.fixture(scope="module")
def before():
    with np.load(PATH, allow_pickle=False) as file:
        return dict(file)


def test_losses_of_twenty_steps(now, before):
    """The tolerance is for rounding: on one machine most versions agree to 1e-6. A sum in another
    order differs by 1e-7, which grows a hundredfold in 20 steps; one missing negative of one image
    changes the loss by 1e-3."""
    np.testing.assert_allclose(now[0], before["losses"], rtol=2e-5, atol=1e-6)


def test_every_tensor_after_twenty_steps(now, before):
    names = list(now[2])
    assert names == before["names"].tolist()
    np.testing.assert_allclose(list(now[2].values()), before["sums"], rtol=1e-4, atol=1e-4)


def test_detections_after_twenty_steps(now, before):
    """As sets of (class, score, box): rounding may swap two with nearly equal scores."""
    for ours, theirs in zip(now[1], before["detections"]):
        ours, theirs = ours[ours[:, 0] > 0], theirs[theirs[:, 0] > 0]
        assert len(ours) == len(theirs) > 20
        distance = np.abs(ours[:, None] - theirs[None]).max(axis=2)
        assert (distance.min(axis=1) < 1e-3).all() and (distance.min(axis=0) < 1e-3).all()
        np.testing.assert_allclose(ours[:, 1], theirs[:, 1], rtol=1e-3)


if __name__ == "__main__":
    losses, detections, sums = run()
    print(losses.mean(2))
    print((detections[:, :, 0] > 0).sum(1), detections[:, :3])
    np.savez_compressed(
        sys.argv[1],
        losses=losses,
        detections=detections,
        names=np.array(list(sums)),
        sums=np.array(list(sums.values())),
    )
