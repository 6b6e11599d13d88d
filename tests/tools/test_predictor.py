"""Predictor: the network, its weights and its class names, called on images of any kind."""

import io
import os
import re
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest
from PIL import Image, ImageChops

from ssd import Predictor
from ssd.config import to_yaml
from ssd.data.graphs import decoding_pipeline
from ssd.data.pipeline import EvaluationLoader
from ssd.datasets.coco import load_coco
from ssd.errors import UserError
from ssd.evaluation.inference import build_inference
from ssd.model.detector import build_detector
from ssd.model.device import Device
from ssd.model.initialization import initialize
from ssd.model.weights import load_weights, save_weights
from ssd.tools.image_input import load_image
from tests.tools.saved import CONFIG, NAMES, save_random
from tests.training.tiny import ROOT, tiny_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tiny_data(tmp_path_factory.mktemp("shapes") / "set", train_images=1, val_images=5)
    return load_coco(
        os.path.join(folder, "annotations", "bbox_only_instances_val2017.json"),
        os.path.join(folder, "val2017"),
        require_boxes=False,
        report=lambda line: None,
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_random(tmp_path_factory.mktemp("weights") / "weights.params")


@pytest.fixture(scope="module")
def detector(weights):
    return Predictor.load(weights, device="cpu")


def paths(data):
    return [os.path.join(data.image_folder, name) for name in data.file_names]


def assert_same(one, other):
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
    np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)


def test_detections_are_those_of_evaluation(detector, data, weights):
    detector_of_weights = build_detector(CONFIG)
    initialize(detector_of_weights.network, 0, mx.cpu())
    load_weights(detector_of_weights.network, weights)
    inference = build_inference(detector_of_weights, Device("cpu", 0, mx.cpu()))
    loader = EvaluationLoader(CONFIG, data)
    found = detector(paths(data))
    for images, indices in loader:
        for index, rows in zip(indices, inference(images).asnumpy()):
            rows = rows[rows[:, 0] > 0]
            assert len(rows) == 20 == len(found[index].ids)
            pixels = np.tile(data.sizes[index], 2)
            np.testing.assert_array_equal(found[index].ids[:, 0], rows[:, 0] - 1)
            np.testing.assert_allclose(found[index].scores[:, 0], rows[:, 1], atol=1e-6)
            np.testing.assert_allclose(
                found[index].boxes, np.clip(rows[:, 2:] * pixels, 0, pixels), atol=1e-3
            )
    loader.close()


def test_gluons_convention(detector, data):
    ids, scores, boxes, names = detector(paths(data)[0])
    assert ids.shape == scores.shape == (20, 1) and boxes.shape == (20, 4)
    assert detector.class_names == NAMES and detector.category_ids == (4, 9, 7)
    assert names == tuple(NAMES[int(number)] for number in ids[:, 0])
    assert (np.diff(scores[:, 0]) <= 0).all() and (scores > 0.27).all()
    width, height = data.sizes[0]
    assert (boxes[:, :2] >= 0).all() and (boxes <= [width, height, width, height]).all()
    assert (boxes[:, 2:] >= boxes[:, :2]).all()


def test_a_list_equals_single_images(detector, data, weights):
    found = detector(paths(data))
    assert len(found) == 5 and detector([]) == []
    for path, one in zip(paths(data), found):
        assert_same(detector(path), one)
    small = Predictor.load(weights, device="cpu", batch_size=2)
    for one, other in zip(found, small(paths(data))):
        assert_same(one, other)


def test_kinds_of_images(detector, data):
    path = paths(data)[0]
    wanted = detector(path)
    image = Image.open(path)
    for same in (
        image,
        np.asarray(image),
        mx.nd.array(np.asarray(image), dtype=np.uint8),
        np.asarray(image)[:, ::-1][:, ::-1],
    ):
        assert_same(detector(same), wanted)
    grey = np.asarray(image.convert("L"))
    for same in (grey[:, :, None], image.convert("L"), Image.fromarray(grey).convert("RGB")):
        assert_same(detector(same), detector(grey))


@pytest.mark.parametrize(
    "image, words",
    [
        (7, "a path, an array or a PIL image is needed, not int"),
        (np.zeros((30, 30, 3), np.float32), r"not float32 of shape \(30, 30, 3\)"),
        (np.zeros((3, 30, 30), np.uint8), r"not uint8 of shape \(3, 30, 30\)"),
        (np.zeros((0, 30, 3), np.uint8), r"of shape \(0, 30, 3\)"),
        ("no/such.jpg", "no/such.jpg: no such file"),
    ],
)
def test_bad_images_are_refused(detector, image, words):
    with pytest.raises(UserError, match=words):
        detector(image)


def test_settings(weights, data):
    path = paths(data)[0]
    strict = Predictor.load(weights, device="cpu", score_threshold=1)
    ids, scores, boxes, names = strict(path)
    assert ids.shape == scores.shape == (0, 1) and boxes.shape == (0, 4) and names == ()
    few = Predictor.load(weights, device="cpu", boxes_per_image=3, nms_iou=0.2)
    assert len(few(path).ids) == 3 and few.config.detection.nms_iou == 0.2
    with pytest.raises(UserError, match="score-threshold"):
        Predictor.load(weights, device="cpu", score_threshold=2)
    with pytest.raises(UserError, match="device"):
        Predictor.load(weights, device="tpu")
    with pytest.raises(UserError, match="batch_size: 0"):
        Predictor.load(weights, device="cpu", batch_size=0)


def test_weights_without_class_names(weights, data, tmp_path, capsys):
    """Older files: the settings are those of recipe.yaml beside, names are given or counted."""
    network = build_detector(CONFIG).network
    network.load_parameters(weights, ignore_extra=True)
    path = str(tmp_path / "old.params")
    save_weights(network, path)
    (tmp_path / "recipe.yaml").write_text(to_yaml(CONFIG))
    old = Predictor.load(path, device="cpu")
    assert old.class_names == ("class 1", "class 2", "class 3") and old.category_ids == (1, 2, 3)
    assert_same(old(paths(data)[0]), Predictor.load(weights, device="cpu")(paths(data)[0]))
    assert Predictor.load(path, device="cpu", classes=data.path).class_names == data.category_names
    older = re.sub(r",\s+nms_iou: 0.5", "", to_yaml(CONFIG))  # wherever its lines end
    assert older != to_yaml(CONFIG)
    (tmp_path / "recipe.yaml").write_text(older)
    capsys.readouterr()
    assert_same(Predictor.load(path, device="cpu")(paths(data)[0]), old(paths(data)[0]))
    assert (
        "missing settings are taken from ssd-resnet34-shapes: detection.nms_iou 0.5\n"
        in capsys.readouterr().err
    )
    (tmp_path / "recipe.yaml").write_text(
        older.replace("recipe: ssd-resnet34-shapes", "recipe: mine")
    )
    with pytest.raises(UserError, match="detection.nms_iou is missing"):
        Predictor.load(path, device="cpu")
    os.remove(tmp_path / "recipe.yaml")
    with pytest.raises(UserError, match="has shape"):
        Predictor.load(path, device="cpu")
    with pytest.raises(UserError, match="no such file"):
        Predictor.load(str(tmp_path / "none.params"))


def test_importing_the_package_loads_nothing():
    code = (
        "import ssd, sys; assert not {'mxnet', 'numpy', 'PIL'} & set(sys.modules); from ssd import "
        "Predictor; assert 'mxnet' not in sys.modules; print(Predictor.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=dict(os.environ, PYTHONPATH=ROOT),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "Predictor\n", done.stderr


# ---- reading images


def smooth(height=48, width=64):
    """An image in which every pixel and channel differs from its neighbours."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(
        np.stack([x * 255 // width, y * 255 // height, (x + y) * 2 % 256], 2).astype(np.uint8)
    )


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def turned(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def ycck():
    """A CMYK JPEG like Photoshop's: inverted, in YCCK."""
    content = bytearray(encoded(smooth().convert("CMYK"), format="JPEG", quality=95))
    content[content.index(b"Adobe") + 11] = 2
    return bytes(content)


def without_adobe():
    """A CMYK JPEG by the standard: without Adobe's mark, and not inverted."""
    inverted = ImageChops.invert(smooth().convert("CMYK"))
    content = encoded(inverted, format="JPEG", quality=95)
    offset = content.index(b"Adobe") - 4
    return content[:offset] + content[offset + 16 :]


def deep(pixels):
    import cv2

    return cv2.imencode(".png", pixels.astype(np.uint16))[1].tobytes()


PICTURES = {
    "plain.jpg": encoded(smooth(), format="JPEG", quality=90),
    "grey.jpg": encoded(smooth().convert("L"), format="JPEG", quality=90),
    "cmyk.jpg": encoded(smooth().convert("CMYK"), format="JPEG", quality=95),
    "ycck.jpg": ycck(),
    "without-adobe.jpg": without_adobe(),
    "deep.png": deep(np.asarray(smooth()).astype(int)[:, :, ::-1] * 256 + 77),
    "deep-grey.png": deep(np.arange(48 * 64).reshape(48, 64) * 21),
    "palette.png": encoded(
        smooth().convert("P", palette=Image.ADAPTIVE), format="PNG", transparency=3
    ),
    "clear.png": encoded(smooth().convert("RGBA"), format="PNG"),
    "turned6.jpg": encoded(smooth(), format="JPEG", quality=95, exif=turned(6)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_images_are_read_as_in_training(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(PICTURES[name])
    content = np.frombuffer(PICTURES[name], np.uint8)
    dali = np.array(decoding_pipeline(CONFIG, lambda: [content], "cpu", 0).run()[0][0]).astype(int)
    ours = load_image(path, upright=False)
    assert ours.dtype == np.uint8 and ours.shape == (48, 64, 3)
    assert np.abs(ours - dali).max() <= 2
    if "cmyk" in name or "adobe" in name:
        assert np.abs(ours - np.asarray(smooth()).astype(int)).mean() < 12, "the colours themselves"


def test_images_are_rotated_upright(tmp_path):
    pixels = np.asarray(smooth())
    for orientation, upright in (
        (1, pixels),
        (3, np.rot90(pixels, 2)),
        (6, np.rot90(pixels, -1)),
        (8, np.rot90(pixels, 1)),
        (2, pixels[:, ::-1]),
    ):
        path = tmp_path / f"{orientation}.png"
        smooth().save(path, exif=turned(orientation))
        np.testing.assert_array_equal(load_image(path), upright)
        np.testing.assert_array_equal(load_image(path, upright=False), pixels)
