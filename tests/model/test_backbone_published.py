"""Published files of MobileNets and of MindCV through ONNX into the network: the same maps in
all."""

import mxnet as mx
import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.model.backbones.mobilenet_specs import SPECS, backbone_shapes, classifier_shapes
from ssd.model.backbones.naming import mindcv_names
from ssd.model.backbones.onnx_file import read_backbone
from ssd.model.backbones.onnx_graph import NAMES
from ssd.model.backbones.published_backbone import convert_backbone
from ssd.model.detector import BACKBONES, build_detector
from ssd.model.initialization import initialize, load_backbone
from tests.reference import family_vectors as vectors
from tests.reference.load_mindcv import backbone_of
from tests.reference.write_mindspore import write_mindspore

MOBILE = {
    "mobilenet_v2": ("ssd_mobilenetv2", "ssd-mobilenetv2-coco"),
    "mobilenet_v3_large": ("ssd_mobilenetv3", "ssd-mobilenetv3-coco"),
}
CLASSIFIER = {
    "mobilenet_v2": {"classifier.1.weight": (1000, 1280), "classifier.1.bias": (1000,)},
    "mobilenet_v3_large": {
        "classifier.0.weight": (1280, 960),
        "classifier.0.bias": (1280,),
        "classifier.3.weight": (1000, 1280),
        "classifier.3.bias": (1000,),
    },
}


def network_of(recipe, size, onnx, backbone, pyramid=False):
    network = build_detector(load_recipe(recipe).with_values(image_size=size)).network
    initialize(network, 1, mx.cpu())
    load_backbone(network, read_backbone(onnx, backbone, lambda line: None, pyramid), onnx)
    return network


def run_onnx(path, images):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return dict(
        zip(
            [output.name for output in session.get_outputs()], session.run(None, {"images": images})
        )
    )


def close(ours, theirs, relative=2e-5):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= relative * np.abs(theirs).max()
    assert np.std(theirs) > 0.01 * np.abs(theirs).max(), "a map that is next to constant"


def images_of(height, width):
    return np.random.default_rng(7).standard_normal((2, 3, height, width)).astype(np.float32)


def test_every_backbone_has_a_file():
    assert set(NAMES) == set(BACKBONES)


@pytest.mark.parametrize(
    "backbone, count", [("mobilenet_v2", 3504872), ("mobilenet_v3_large", 5483032)]
)
def test_sizes_against_published_numbers(backbone, count):
    """What torchvision documents as the parameters of the classification network."""
    assert (
        sum(
            int(np.prod(shape))
            for name, shape in classifier_shapes(backbone).items()
            if "running" not in name
        )
        == count
    )
    assert set(backbone_shapes(backbone)) < set(classifier_shapes(backbone))


@pytest.mark.parametrize("version, backbone", [(2, "mobilenet_v2"), (3, "mobilenet_v3_large")])
def test_torchvisions_file_gives_its_maps(tmp_path, version, backbone):
    """At 65 pixels every halved side is odd, where torchvision's padding and V3's here are the
    same."""
    torch = pytest.importorskip("torch")
    from tests.torch_mobilenet import maps, mobilenet

    peer, images, reported = mobilenet(version), images_of(65, 65), []
    pth, onnx = str(tmp_path / "a.pth"), str(tmp_path / "a.onnx")
    torch.save(peer.state_dict(), pth)
    convert_backbone(pth, onnx, backbone, report=reported.append)
    assert f"classifier ({2 * (version - 1)} tensors) dropped" in reported[0]
    assert len(reported) == version - 1 and (
        version == 2 or "epsilon of 0.001 became a part" in reported[1]
    )
    theirs, ort = maps(peer, images, SPECS[backbone].tap), run_onnx(onnx, images)
    network = network_of(MOBILE[backbone][1], "65x65", onnx, backbone)
    ours = [part.asnumpy() for part in network.backbone.maps(mx.nd, mx.nd.array(images))]
    for value, wanted in zip(ort.values(), theirs):
        close(value, wanted)
    for value, wanted in zip(ours, (theirs[0], theirs[2])):
        close(value, wanted)


def test_the_map_inside_a_block(tmp_path):
    """SSDLite's, which has the same file."""
    torch = pytest.importorskip("torch")
    from tests.torch_mobilenet import maps, mobilenet

    peer, images, onnx = mobilenet(2, seed=3), images_of(64, 96), str(tmp_path / "a.onnx")
    torch.save(peer.state_dict(), str(tmp_path / "a.pth"))
    convert_backbone(str(tmp_path / "a.pth"), onnx, "mobilenet_v2", report=lambda line: None)
    network = network_of("ssdlite-mobilenetv2-coco", "64x96", onnx, "mobilenet_v2")
    ours = [part.asnumpy() for part in network.backbone.maps(mx.nd, mx.nd.array(images))]
    for value, wanted in zip(ours, maps(peer, images, 13)[1:]):
        close(value, wanted)


@pytest.mark.parametrize("mint", [False, True], ids=["gamma", "weight"])
@pytest.mark.parametrize("backbone", MOBILE)
def test_mindcvs_file_gives_onnxruntimes_maps(tmp_path, backbone, mint):
    """Under the names that MindCV saves, in both spellings of BatchNorm; even sides, where V3 pads
    as TensorFlow."""
    detector, recipe = MOBILE[backbone]
    shapes = {f"backbone.{name}": shape for name, shape in backbone_shapes(backbone).items()}
    tensors = backbone_of(detector, shapes, 0)
    tensors.update(
        {name: np.zeros(shape, np.float32) for name, shape in CLASSIFIER[backbone].items()}
    )
    if mint:
        spelled = mindcv_names(backbone, gamma=False)
        tensors = {
            spelled.get(ours, ours): tensors[theirs]
            for ours, theirs in {
                **mindcv_names(backbone),
                **{name: name for name in CLASSIFIER[backbone]},
            }.items()
        }
        assert not any("gamma" in name or "moving" in name for name in tensors)
    tensors["epoch_num"] = np.array([4], np.int64)
    ckpt, onnx, reported = str(tmp_path / "a.ckpt"), str(tmp_path / "a.onnx"), []
    write_mindspore(ckpt, tensors)
    convert_backbone(ckpt, onnx, backbone, report=reported.append)
    assert (
        len(reported) == 1
        and f"classifier ({len(CLASSIFIER[backbone])} tensors) dropped" in reported[0]
    )
    for name, value in read_backbone(onnx, backbone).items():
        np.testing.assert_array_equal(value, vectors.weight(f"backbone.{name}", value.shape))
    images = images_of(64, 100)
    first, _, last = run_onnx(onnx, images).values()
    network = network_of(recipe, "64x100", onnx, backbone)
    for ours, wanted in zip(network.backbone.maps(mx.nd, mx.nd.array(images)), (first, last)):
        close(ours.asnumpy(), wanted)


@pytest.mark.slow
def test_mindcvs_resnet50_for_a_pyramid_and_for_ssd(tmp_path):
    from ssd.model.backbones.resnet_specs import backbone_shapes as shapes_of

    shapes = {
        f"backbone.{name}": shape for name, shape in shapes_of("resnet50", pyramid=True).items()
    }
    tensors = backbone_of("ssd_resnet50_fpn", shapes, 0)
    tensors.update(
        {
            "classifier.weight": np.zeros((1000, 2048), np.float32),
            "classifier.bias": np.zeros(1000, np.float32),
        }
    )
    ckpt, full, short = (str(tmp_path / name) for name in ("a.ckpt", "full.onnx", "short.onnx"))
    write_mindspore(ckpt, tensors)
    reported = []
    convert_backbone(ckpt, full, "resnet50", True, reported.append)
    convert_backbone(ckpt, short, "resnet50", False, reported.append)
    assert [
        "classifier (2 tensors)" in reported[0],
        "classifier and layer4 (52 tensors)" in reported[1],
    ] == [True, True]
    images = images_of(64, 96)
    network = network_of("ssd-resnet50-fpn-coco", "64x96", full, "resnet50", pyramid=True)
    for ours, wanted in zip(
        network.backbone.maps(mx.nd, mx.nd.array(images)), run_onnx(full, images).values()
    ):
        close(ours.asnumpy(), wanted)
    # SSD takes either file.
    read = [read_backbone(path, "resnet50", reported.append) for path in (full, short)]
    assert "layer4 (50 tensors) dropped" in reported[-1] and list(read[0]) == list(read[1])
    with pytest.raises(
        UserError,
        match="missing tensor layer4.0.conv1.weight and 49 more; made for SSD; "
        "scripts/get_backbone.sh --pyramid keeps layer4",
    ):
        read_backbone(short, "resnet50", pyramid=True)


def test_wrong_files_are_refused_by_the_files_own_names(tmp_path):
    shapes = {f"backbone.{name}": shape for name, shape in backbone_shapes("mobilenet_v2").items()}

    def refused(change, words, backbone="mobilenet_v2"):
        tensors = backbone_of("ssd_mobilenetv2", shapes, 0)
        change(tensors)
        write_mindspore(str(tmp_path / "a.ckpt"), tensors)
        with pytest.raises(UserError, match=f"a.ckpt: {words}"):
            convert_backbone(str(tmp_path / "a.ckpt"), str(tmp_path / "a.onnx"), backbone)
        assert not (tmp_path / "a.onnx").exists()

    refused(lambda t: t.pop("features.1.gamma"), r"missing tensor features\.1\.gamma$")
    refused(
        lambda t: t.update({"features.2.weight": np.zeros(3, "f4")}),
        r"unexpected tensor features\.2\.weight",
    )
    refused(
        lambda t: t.update({"features.20.weight": np.zeros((1280, 320, 3, 3), "f4")}),
        r"tensor features\.20\.weight has shape \(1280, 320, 3, 3\) instead of \(1280, 320, 1, 1\)",
    )
    refused(
        lambda t: t["features.1.moving_variance"].fill(-1),
        r"tensor features\.1\.moving_variance holds a negative",
    )
    refused(
        lambda t: None,
        "the weights of mobilenet_v2, not of mobilenet_v3_large",
        "mobilenet_v3_large",
    )
    refused(lambda t: None, "the weights of mobilenet_v2, not of resnet50", "resnet50")
    write_mindspore(
        str(tmp_path / "b.ckpt"),
        {
            name: value.astype(np.float16)
            for name, value in backbone_of("ssd_mobilenetv2", shapes, 0).items()
        },
    )
    with pytest.raises(UserError, match="features.0.weight has type float16 instead of float32"):
        convert_backbone(str(tmp_path / "b.ckpt"), str(tmp_path / "b.onnx"), "mobilenet_v2")


def test_a_narrower_network_refuses_the_file(tmp_path):
    shapes = {f"backbone.{name}": shape for name, shape in backbone_shapes("mobilenet_v2").items()}
    onnx = str(tmp_path / "a.onnx")
    write_mindspore(str(tmp_path / "a.ckpt"), backbone_of("ssd_mobilenetv2", shapes, 0))
    convert_backbone(str(tmp_path / "a.ckpt"), onnx, "mobilenet_v2", report=lambda line: None)
    network = build_detector(load_recipe("ssd-mobilenetv2-coco").with_values(width=0.5)).network
    initialize(network, 0, mx.cpu())
    with pytest.raises(
        UserError, match=r"stem.conv.weight has shape \(32, 3, 3, 3\), not \(16, 3, 3, 3\)"
    ):
        load_backbone(network, read_backbone(onnx, "mobilenet_v2"), onnx)


def test_a_run_starts_from_the_file(tmp_path):
    """ssd.training.setup, as --pretrained-backbone has it, with an input padded to four
    channels."""
    from ssd.training.setup import initialize_weights

    class OneRank:
        def broadcast_parameters(self, parameters):
            assert parameters

    shapes = {
        f"backbone.{name}": shape for name, shape in backbone_shapes("mobilenet_v3_large").items()
    }
    onnx, reported = str(tmp_path / "a.onnx"), []
    write_mindspore(str(tmp_path / "a.ckpt"), backbone_of("ssd_mobilenetv3", shapes, 0))
    convert_backbone(str(tmp_path / "a.ckpt"), onnx, "mobilenet_v3_large", report=lambda line: None)
    for values in ({}, {"layout": "NHWC", "dtype": "float16"}):
        config = load_recipe("ssd-mobilenetv3-coco").with_values(
            pretrained_backbone=onnx, seed=1, **values
        )
        network = build_detector(config).network
        initialize_weights(network, config, OneRank(), mx.cpu(), False, (), reported.append)
        parameters = network.backbone.torchvision_parameters()
        stem, wanted = (
            parameters["stem.conv.weight"].data().asnumpy(),
            vectors.weight("backbone.stem.conv.weight", (16, 3, 3, 3)),
        )
        if values:
            assert stem.shape == (16, 3, 3, 4) and not stem[..., 3].any()
            np.testing.assert_array_equal(
                stem[..., :3], wanted.transpose(0, 2, 3, 1).astype(np.float16)
            )
        else:
            np.testing.assert_array_equal(stem, wanted)
        bias = parameters["block15.se.reduce.bias"].data().asnumpy()
        np.testing.assert_allclose(
            bias, vectors.weight("backbone.block15.se.reduce.bias", (240,)), rtol=1e-3
        )
    assert reported == [f"backbone: {onnx}"] * 2
