"""SSDLite-MobileNetV2, SSD on MobileNetV2 and V3 and on ResNet-50's pyramid, against numbers of
their public programs: uvipen/SSD-pytorch and MindCV on MindSpore. Tolerances: ten times what
rounding alone does."""

import mxnet as mx
import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.model.boxes.box_rules import sizes_of
from ssd.model.detector import build_detector
from ssd.training.schedule import build_schedule
from ssd.training.step import TrainingStep
from tests.reference import family_vectors as vectors
from tests.reference.family import RECIPES, TOLERANCES, close, dense
from tests.reference.load_family import load_family
from tests.reference.load_mobile import set_weights
from tests.training.one_rank import OneRank

DETECTORS = list(RECIPES)


def config_of(name, **values):
    size = vectors.DETECTORS[name][0]
    return load_recipe(RECIPES[name]).with_values(image_size=list(size), **values)


@pytest.fixture(scope="module", params=DETECTORS)
def case(request):
    """(name, arrays, seed, detector with the program's weights)."""
    arrays, seed = load_family(request.param)
    detector = build_detector(config_of(request.param))
    set_weights(
        detector.network,
        seed,
        sizes_of(config_of(request.param)).per_cell,
        request.param == "ssdlite_mobilenetv2",
    )
    return request.param, arrays, seed, detector


def test_default_boxes(case):
    name, arrays, _, detector = case
    np.testing.assert_allclose(
        detector.default_boxes, arrays["default_boxes_cxcywh"], atol=6e-7, rtol=0
    )
    for size in ("640x640", "512x768") if name == "ssd_resnet50_fpn" else ():
        boxes = build_detector(config_of(name).with_values(image_size=size)).default_boxes
        assert len(boxes) == arrays[f"default_boxes_{size}_count"]
        np.testing.assert_allclose(
            boxes[::64], arrays[f"default_boxes_{size}_every64"], atol=2e-6, rtol=0
        )


def test_evaluation_output(case):
    name, arrays, seed, detector = case
    count = len(arrays["eval_loc_absmean"])
    outputs = dict(
        zip(
            ("loc", "conf"),
            (
                part.asnumpy()
                for part in detector.network(mx.nd.array(vectors.images(name, seed, count)))
            ),
        )
    )
    for part, tolerance in zip(("loc", "conf"), TOLERANCES[name]):
        key = next(key for key in arrays.files if key.startswith(f"eval_{part}_every"))
        close(outputs[part][:, :: int(key.split("every")[1])], arrays[key], tolerance)
        np.testing.assert_allclose(
            np.abs(outputs[part]).mean((1, 2)), arrays[f"eval_{part}_absmean"], rtol=2e-5
        )


def test_matching(case):
    """Exact except for boxes where the last bit decides; there a ground truth claims one of the
    same group."""
    name, arrays, seed, detector = case
    counts, ties = arrays["match_pos_count"], arrays["match_tie_count"]
    starts, tie_starts = np.cumsum(counts) - counts, np.cumsum(ties) - ties
    for sample, (boxes, labels) in enumerate(vectors.targets(name, seed, len(counts))):
        found = detector.matcher(boxes.astype(np.float32), labels)
        part = slice(starts[sample], starts[sample] + counts[sample])
        tied = arrays["match_tie_index"][tie_starts[sample] : tie_starts[sample] + ties[sample]]
        ours, theirs = (
            ~np.isin(found.positions, tied),
            ~np.isin(arrays["match_pos_index"][part], tied),
        )
        np.testing.assert_array_equal(
            found.positions[ours], arrays["match_pos_index"][part][theirs]
        )
        np.testing.assert_array_equal(found.classes[ours], arrays["match_pos_label"][part][theirs])
        np.testing.assert_allclose(
            found.offsets[ours], arrays["match_pos_offsets"][part][theirs], rtol=0, atol=6e-5
        )


def test_loss_and_its_gradient(case):
    name, arrays, seed, detector = case
    offsets, logits = (mx.nd.array(part) for part in vectors.loss_predictions(name, seed))
    targets = dense(arrays, "", offsets.shape[1], (2, 3, 4), empty=(4,))
    for part in (offsets, logits):
        part.attach_grad()
    with mx.autograd.record():
        class_loss, offset_loss = detector.loss(offsets, logits, *targets)
        mean = (class_loss + offset_loss).mean()
    mean.backward()
    np.testing.assert_allclose(mean.asscalar(), arrays["loss_value"], rtol=TOLERANCES[name][2])
    for part, key in ((offsets, "loc"), (logits, "conf")):
        norms = np.sqrt((part.grad.asnumpy().astype(np.float64) ** 2).sum((1, 2)))
        np.testing.assert_allclose(
            norms, arrays[f"loss_grad_{key}_norm"], rtol=TOLERANCES[name][3] + 1e-6, atol=1e-12
        )


def norms_of(network, wanted, values):
    names = network.reference_parameters()
    return np.array(
        [np.linalg.norm(values(names[str(name)]).astype(np.float64)) for name in wanted]
    )


@pytest.mark.slow
def test_four_training_steps(case):
    name, arrays, seed, _ = case
    lite = name == "ssdlite_mobilenetv2"
    images = 4 if lite else 2
    config = config_of(name, batch_size=images)
    detector = build_detector(config)
    network = detector.network
    set_weights(network, seed, sizes_of(config).per_cell, lite)
    step = TrainingStep(network, detector.loss, config, OneRank())
    targets = dense(arrays, "", len(detector.default_boxes), range(images))
    data, losses = mx.nd.array(vectors.images(name, seed, images)), []
    _, _, _, _, gradients, training, parameters, means, variances = TOLERANCES[name]
    for number in range(4):
        parts = step.gradients(data, *targets, check=True)
        if number == 0:
            ours = (
                norms_of(network, arrays["grad_name"], lambda parameter: parameter.grad().asnumpy())
                / images
            )
            theirs = arrays["grad_norm"]
            counted = theirs > 1e-3 * theirs.max()
            np.testing.assert_allclose(ours[counted], theirs[counted], rtol=gradients)
        losses.append(float((parts[0] + parts[1]).mean().asscalar()))
        step.update(0.0026 if lite else float(arrays["train_lr"][number]))
    np.testing.assert_allclose(losses, arrays["train_losses"], rtol=training)
    ours = norms_of(network, arrays["grad_name"], lambda parameter: parameter.data().asnumpy())
    np.testing.assert_allclose(ours, arrays["param_norm_after"], rtol=parameters)
    for kind, tolerance in (("mean", means), ("var", variances)):
        wanted = [
            str(part) if str(part).endswith(f"running_{kind}") else f"{part}.running_{kind}"
            for part in (str(part).rsplit(".running_", 1)[0] for part in arrays["running_name"])
        ]
        ours = norms_of(network, wanted, lambda parameter: parameter.data().asnumpy())
        theirs = arrays[f"running_{kind}_norm_after"]
        # The programs' running variance is the unbiased one: of maps of few cells it is larger than
        # ours.
        counted = np.array(
            [not part.startswith(("extras", "loc", "conf", "fpn.down")) for part in wanted]
        )
        keep = counted if kind == "var" else slice(None)
        np.testing.assert_allclose(ours[keep], theirs[keep], rtol=tolerance)


def test_detections(case):
    name, arrays, seed, detector = case
    detector.detections.initialize()
    inputs = [mx.nd.array(part) for part in vectors.detection_predictions(name, seed)]
    sizes = np.array(vectors.IMAGE_SIZES)[:, ::-1]
    pixels = "detect_xywh" in arrays.files
    rows = detector.detections(*inputs, *([mx.nd.array(sizes)] if pixels else [])).asnumpy()
    ends = np.cumsum(arrays["detect_count"])
    for image, count in enumerate(arrays["detect_count"]):
        ours = rows[image][rows[image, :, 0] > 0]
        part = slice(ends[image] - count, ends[image])
        if pixels:
            ltrb = ours[:, 2:] * np.tile(sizes[image], 2)
            boxes = np.concatenate([ltrb[:, :2], ltrb[:, 2:] - ltrb[:, :2]], axis=1)
            theirs = arrays["detect_xywh"][part]
        else:
            boxes, theirs = ours[:, 2:], arrays["detect_ltrb"][part]
        ours = np.concatenate([ours[:, :2] * [1, 1000], boxes], axis=1)
        theirs = np.concatenate(
            [
                arrays["detect_label"][part][:, None],
                1000 * arrays["detect_score"][part][:, None],
                theirs,
            ],
            axis=1,
        )
        assert len(ours) == count
        distance = np.abs(ours[:, None] - theirs[None]).max(axis=2)
        assert (distance.min(axis=1) < 7e-3).all() and len(
            set(distance.argmin(axis=1).tolist())
        ) == count


def test_learning_rate(case):
    name, arrays, _, _ = case
    if "lr_step" not in arrays.files:
        pytest.skip("its rate is constant here")
    config = config_of(name, epochs=500, base_lr=0.05)
    schedule = build_schedule(config.training, global_batch=256, train_images=117266)
    ours = [schedule(1 + int(step) // 458, int(step)) for step in arrays["lr_step"]]
    np.testing.assert_allclose(ours, arrays["lr_value"], rtol=2e-6, atol=1e-9)


@pytest.mark.slow
def test_what_decays(case):
    name, arrays, _, _ = case
    if "decayed_name" not in arrays.files:
        pytest.skip("all of it")
    config = config_of(name, batch_size=2)
    detector = build_detector(config)
    set_weights(detector.network, 0, sizes_of(config).per_cell, False)
    TrainingStep(detector.network, detector.loss, config, OneRank())
    decayed = {
        name
        for name, parameter in detector.network.reference_parameters().items()
        if parameter.wd_mult and parameter.grad_req != "null" and "running" not in name
    }
    assert decayed == set(map(str, arrays["decayed_name"]))
