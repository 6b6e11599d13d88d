"""SSD-ResNet50 against numbers of its PyTorch references: uvipen/SSD-pytorch, and
mlcommons/abtf-ssd-pytorch for an image that is not square. Tolerances: ten times what rounding
alone does (tests/reference/README.md)."""

import mxnet as mx
import numpy as np
import pytest

from ssd.model.boxes.formats import cxcywh_to_ltrb
from ssd.model.detector import build_detector
from ssd.training.step import TrainingStep
from tests.reference import family_vectors as vectors
from tests.reference.family import COGNATA, SSD_RESNET50, close, dense
from tests.reference.load_family import load_family, names_of, set_family_weights
from tests.training.one_rank import OneRank

INPUTS = [(SSD_RESNET50, "ssd_resnet50", ""), (COGNATA, "ssd_resnet50_cognata", "cognata_")]


@pytest.fixture(scope="module")
def reference():
    return load_family("ssd_resnet50")


def test_default_boxes(reference):
    arrays, _ = reference
    ours = build_detector(SSD_RESNET50).default_boxes
    np.testing.assert_allclose(ours, arrays["default_boxes_cxcywh"], atol=3e-7, rtol=0)
    np.testing.assert_allclose(
        cxcywh_to_ltrb(ours).astype(float).sum(0), arrays["default_boxes_ltrb_sum"], rtol=1e-6
    )
    ours = build_detector(COGNATA).default_boxes
    assert len(ours) == 29000
    np.testing.assert_allclose(
        ours[::8], arrays["cognata_default_boxes_cxcywh_every8"], atol=3e-7, rtol=0
    )
    np.testing.assert_allclose(
        cxcywh_to_ltrb(ours).astype(float).sum(0),
        arrays["cognata_default_boxes_ltrb_sum"],
        rtol=1e-6,
    )


@pytest.mark.slow
@pytest.mark.parametrize("config, name, prefix", INPUTS)
def test_evaluation_output(reference, config, name, prefix):
    arrays, seed = reference
    network = build_detector(config).network
    set_family_weights(network, seed)
    count = len(arrays[prefix + "eval_loc_absmean"])
    offsets, logits = (
        output.asnumpy() for output in network(mx.nd.array(vectors.images(name, seed, count)))
    )
    every = {
        part: next(key for key in arrays.files if key.startswith(f"{prefix}eval_{part}_every"))
        for part in ("loc", "conf")
    }
    close(offsets[:, :: int(every["loc"].split("every")[1])], arrays[every["loc"]], 4e-5)
    close(logits[:, :: int(every["conf"].split("every")[1])], arrays[every["conf"]], 2e-5)
    np.testing.assert_allclose(
        np.abs(offsets).mean((1, 2)), arrays[prefix + "eval_loc_absmean"], rtol=2e-5
    )
    np.testing.assert_allclose(
        np.abs(logits).mean((1, 2)), arrays[prefix + "eval_conf_absmean"], rtol=2e-5
    )


@pytest.mark.parametrize("config, name, prefix", INPUTS)
def test_matching(reference, config, name, prefix):
    """Exact except for boxes where the last bit decides; there a ground truth claims one of the
    same group."""
    arrays, seed = reference
    matcher = build_detector(config).matcher
    counts, ties = arrays[prefix + "match_pos_count"], arrays[prefix + "match_tie_count"]
    starts, tie_starts = np.cumsum(counts) - counts, np.cumsum(ties) - ties
    compared = 0
    for sample, (boxes, labels) in enumerate(vectors.targets(name, seed, len(counts))):
        found = matcher(boxes.astype(np.float32), labels)
        part = slice(starts[sample], starts[sample] + counts[sample])
        tied = arrays[prefix + "match_tie_index"][
            tie_starts[sample] : tie_starts[sample] + ties[sample]
        ]
        ours, theirs = (
            ~np.isin(found.positions, tied),
            ~np.isin(arrays[prefix + "match_pos_index"][part], tied),
        )
        np.testing.assert_array_equal(
            found.positions[ours], arrays[prefix + "match_pos_index"][part][theirs]
        )
        np.testing.assert_array_equal(
            found.classes[ours], arrays[prefix + "match_pos_label"][part][theirs]
        )
        np.testing.assert_allclose(
            found.offsets[ours],
            arrays[prefix + "match_pos_offsets"][part][theirs],
            rtol=0,
            atol=6e-5,
        )
        compared += ours.sum()
    assert compared > 0.6 * counts.sum()


@pytest.mark.parametrize("config, name, prefix", INPUTS)
def test_loss_and_its_gradient(reference, config, name, prefix):
    arrays, seed = reference
    loss = build_detector(config).loss
    offsets, logits = (mx.nd.array(part) for part in vectors.loss_predictions(name, seed))
    targets = dense(arrays, prefix, offsets.shape[1], (2, 3, 4), empty=(4,))
    for part in (offsets, logits):
        part.attach_grad()
    with mx.autograd.record():
        class_loss, offset_loss = loss(offsets, logits, *targets)
        mean = (class_loss + offset_loss).mean()
    mean.backward()
    np.testing.assert_allclose(mean.asscalar(), arrays[prefix + "loss_value"], rtol=3e-6)
    for part, key in ((offsets, "loc"), (logits, "conf")):
        norms = np.sqrt((part.grad.asnumpy().astype(np.float64) ** 2).sum((1, 2)))
        np.testing.assert_allclose(
            norms, arrays[f"{prefix}loss_grad_{key}_norm"], rtol=1e-5, atol=1e-12
        )


def norms_of(names, wanted, values):
    return np.array(
        [
            np.linalg.norm(forth(values(parameter)).astype(np.float64))
            for parameter, forth, _ in (names[str(name)] for name in wanted)
        ]
    )


@pytest.mark.slow
def test_four_training_steps(reference):
    """Nesterov's momentum by the step that `train` makes."""
    arrays, seed = reference
    config = SSD_RESNET50.with_values(batch_size=2)
    detector = build_detector(config)
    network = detector.network
    set_family_weights(network, seed)
    step = TrainingStep(network, detector.loss, config, OneRank())
    images = mx.nd.array(vectors.images("ssd_resnet50", seed))
    targets = dense(arrays, "", len(detector.default_boxes), (0, 1))
    names, losses = names_of(network), []
    for number in range(4):
        parts = step.gradients(images, *targets, check=True)
        if number == 0:
            ours = (
                norms_of(names, arrays["grad_name"], lambda parameter: parameter.grad().asnumpy())
                / 2
            )
            theirs = arrays["grad_norm"]
            counted = theirs > 1e-3 * theirs.max()
            np.testing.assert_allclose(ours[counted], theirs[counted], rtol=1e-2)
            np.testing.assert_allclose(np.linalg.norm(ours), np.linalg.norm(theirs), rtol=1e-3)
        losses.append(float((parts[0] + parts[1]).mean().asscalar()))
        step.update(0.0026)
    np.testing.assert_allclose(losses, arrays["train_losses"], rtol=6e-3)
    ours = norms_of(names, arrays["grad_name"], lambda parameter: parameter.data().asnumpy())
    np.testing.assert_allclose(ours, arrays["param_norm_after"], rtol=1e-2)
    for kind, tolerance in (("mean", 5e-2), ("var", 1e-1)):
        wanted = [
            f"{name}.running_{kind}"
            if not str(name).endswith(("running_mean", "running_var"))
            else str(name)
            for name in arrays["running_name"]
        ]
        # PyTorch's running variance is the unbiased one: of the maps of a single cell and two
        # images, twice ours.
        ours = norms_of(names, wanted, lambda parameter: parameter.data().asnumpy())
        last = np.array([name.startswith("extras.4.1") for name in wanted])
        keep = ~last if kind == "var" else slice(None)
        np.testing.assert_allclose(
            ours[keep], arrays[f"running_{kind}_norm_after"][keep], rtol=tolerance
        )


def test_detections(reference):
    arrays, seed = reference
    detector = build_detector(SSD_RESNET50)
    detector.detections.initialize()
    rows = detector.detections(
        *(mx.nd.array(part) for part in vectors.detection_predictions("ssd_resnet50", seed))
    )
    ends = np.cumsum(arrays["detect_count"])
    for image, count in enumerate(arrays["detect_count"]):
        ours = rows[image].asnumpy()
        ours = ours[ours[:, 0] > 0]
        part = slice(ends[image] - count, ends[image])
        theirs = np.concatenate(
            [
                arrays["detect_label"][part][:, None],
                arrays["detect_score"][part][:, None],
                arrays["detect_ltrb"][part],
            ],
            axis=1,
        )
        assert len(ours) == count
        # Row by row after matching: scores equal but for the last bit may swap places.
        distance = np.abs(ours[:, None] - theirs[None]).max(axis=2)
        assert (distance.min(axis=1) < 1e-5).all() and len(
            set(distance.argmin(axis=1).tolist())
        ) == count
