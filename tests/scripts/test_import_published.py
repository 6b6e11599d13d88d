"""scripts/import_weights.py: files of the SSD family under their programs' names, and what those
programs computed of them.

Names: uvipen/SSD-pytorch and mlcommons/abtf-ssd-pytorch keep torchvision's layers by their place;
MindCV's are in tests/reference/mindcv_layers.txt.
"""

import importlib.util
import os
import re

import mxnet as mx
import numpy as np
import pytest

from ssd.config import load_recipe, to_yaml
from ssd.datasets import coco_classes
from ssd.errors import UserError
from ssd.model.detector import build_detector
from ssd.model.weights import load_detector, read_info
from tests.reference import family_vectors as vectors
from tests.reference.family import COGNATA, RECIPES, TOLERANCES, close
from tests.reference.load_family import load_family
from tests.reference.load_family import names_of as resnet50_names
from tests.reference.load_mindcv import tensors_of
from tests.reference.write_mindspore import write_mindspore
from tests.shared import shared_path

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MINDCV = ("ssd_mobilenetv2", "ssd_mobilenetv3", "ssd_resnet50_fpn")
# torchvision's ResNet and MobileNetV2 as sequences
CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6"}


def load_script():
    spec = importlib.util.spec_from_file_location(
        "import_weights", os.path.join(ROOT, "scripts", "import_weights.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


convert = load_script().convert


def theirs_of_resnet50(name):
    part, first, rest = name.split(".", 2) if name.count(".") > 1 else (*name.split(".", 1), "")
    if part == "backbone":
        return f"feature_extractor.feature_extractor.{CHILDREN[first]}.{rest}"
    if part == "extras":
        place, layer, kind = rest.split(".")
        return f"additional_blocks.{first}.{3 * int(place) + (layer == 'bn')}.{kind}"
    return name  # loc.0.weight


def theirs_of_ssdlite(name):
    part, first, rest = name.split(".", 2)
    if part in ("loc", "conf"):
        return f"{part}.{first}." + rest.replace("depthwise.conv", "0").replace(
            "depthwise.bn", "1"
        ).replace("out", "3")
    if first in ("stem", "last"):
        return (
            f"feature_extractor.feature_extractor.{0 if first == 'stem' else 18}."
            + rest.replace("conv.", "0.").replace("bn.", "1.")
        )
    number = int(first.replace("block", ""))
    layer, kind, end = rest.split(".")
    index = ["expand", "depthwise", "project"].index(layer) - (part == "backbone" and number == 1)
    place = f"{index}.{int(kind == 'bn')}" if layer != "project" else str(index + (kind == "bn"))
    within = (
        f"feature_extractor.feature_extractor.{number}"
        if part == "backbone"
        else f"additional_blocks.{number}"
    )
    return f"{within}.conv.{place}.{end}"


def resnet50_state(config, seed):
    network = build_detector(config).network
    return {
        theirs_of_resnet50(name): vectors.weight(
            name, forth(np.zeros(parameter.shape, np.float32)).shape, seed
        )
        for name, (parameter, forth, _) in resnet50_names(network).items()
    }


def ssdlite_state(seed):
    network = build_detector(load_recipe("ssdlite-mobilenetv2-coco")).network
    state = {
        theirs_of_ssdlite(name): vectors.weight(name, parameter.shape, seed)
        for name, parameter in network.reference_parameters().items()
    }
    for name, count in (("loc", 24), ("conf", 486)):  # built, and never used
        state[f"{name}.6.weight"] = np.full((count, 64, 1, 1), np.nan, np.float32)
        state[f"{name}.6.bias"] = np.zeros(count, np.float32)
    return state


def save_pth(path, state, key="model_state_dict"):
    """A checkpoint as train.py there writes it."""
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(value) for name, value in state.items()}
    state["feature_extractor.feature_extractor.1.num_batches_tracked"] = torch.tensor(5)
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, nesterov=True)
    parameter.grad = torch.ones(3)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[43, 54], gamma=0.1)
    torch.save(
        {
            "epoch": 3,
            key: state,
            "optimizer": optimizer.state_dict(),
            "scheduler": schedule.state_dict(),
        },
        path,
    )


def file_of(detector, folder, seed=0, **trained):
    """Published file of the stored detector's weights."""
    if detector in MINDCV:
        path = str(folder / f"{detector}.ckpt")
        network = build_detector(load_recipe(RECIPES[detector])).network
        shapes = {
            name: parameter.shape for name, parameter in network.reference_parameters().items()
        }
        tensors = {
            f"network.{name}": value for name, value in tensors_of(detector, shapes, seed).items()
        }
        write_mindspore(path, {**tensors, **trained})
        return path
    path = str(folder / f"{detector}.pth")
    save_pth(
        path,
        ssdlite_state(seed)
        if "lite" in detector
        else resnet50_state(load_recipe("ssd-resnet50-coco"), seed),
    )
    return path


def check_outputs(target, detector, prefix="", arrays_of=None, tolerances=(4e-5, 2e-5)):
    """What the network gives with the file's weights, against what the program gave."""
    arrays, seed = load_family(arrays_of or detector)
    info = read_info(target)
    size = vectors.DETECTORS[detector][0]
    network = load_detector(
        info.config.with_values(image_size=list(size)), target, mx.cpu()
    ).network
    count = len(arrays[prefix + "eval_loc_absmean"])
    outputs = network(mx.nd.array(vectors.images(detector, seed, count)))
    for part, output, tolerance in zip(("loc", "conf"), outputs, tolerances):
        key = next(key for key in arrays.files if key.startswith(f"{prefix}eval_{part}_every"))
        close(output.asnumpy()[:, :: int(key.split("every")[1])], arrays[key], tolerance)
    return info


@pytest.mark.parametrize("detector", ["ssd_resnet50", *RECIPES])
def test_a_published_file_gives_its_programs_outputs(tmp_path, detector, capsys):
    """Without --recipe: the file says which network it is."""
    _, seed = load_family(detector)
    left = {f"moments.network.multi_box.{index}": np.zeros(3, np.float32) for index in range(2)}
    source = file_of(detector, tmp_path, seed, global_step=np.array([9], np.int32), **left)
    target = str(tmp_path / "out.params")
    said = convert(source, target, "", "", False)
    assert "80 classes from 'person' to 'toothbrush'" in said
    assert (
        "loc.6.weight, loc.6.bias, conf.6.weight, conf.6.bias dropped" in capsys.readouterr().out
    ) == (detector == "ssdlite_mobilenetv2")
    info = check_outputs(target, detector, tolerances=TOLERANCES.get(detector, (4e-5, 2e-5))[:2])
    assert info.config.recipe == RECIPES.get(detector, "ssd-resnet50-coco")
    assert info.category_ids == coco_classes.IDS and info.category_names == coco_classes.NAMES


def test_abtfs_network_of_another_size(tmp_path):
    """Seven maps, an image that is not square, 15 classes, described by a recipe of one's own."""
    _, seed = load_family("ssd_resnet50")
    source, recipe, target = (
        str(tmp_path / name) for name in ("a.pth", "cognata.yaml", "out.params")
    )
    save_pth(source, resnet50_state(COGNATA, seed), key="model")
    (tmp_path / "cognata.yaml").write_text(to_yaml(COGNATA))
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(f"class {number}" for number in range(14)))
    said = convert(source, target, recipe, str(classes), False)
    assert "14 classes from 'class 0' to 'class 13'" in said
    check_outputs(target, "ssd_resnet50_cognata", "cognata_", "ssd_resnet50")
    with pytest.raises(
        UserError, match="a network of 14 classes; COCO has 80; name another list with --classes"
    ):
        convert(source, str(tmp_path / "b.params"), recipe, "", False)
    with pytest.raises(
        UserError, match="another network's: unexpected additional_blocks.5.0.weight"
    ):
        convert(source, str(tmp_path / "b.params"), "ssd-resnet50-coco", str(classes), False)


def test_other_networks_files_are_refused_with_their_recipe(tmp_path):
    files = {
        detector: file_of(detector, tmp_path)
        for detector in ("ssd_mobilenetv2", "ssdlite_mobilenetv2")
    }
    target = str(tmp_path / "out.params")
    for detector, recipe, words in (
        (
            "ssd_mobilenetv2",
            "ssd-mobilenetv3-coco",
            "MindCV's SSD-MobileNetV2, not of MindCV's SSD-MobileNetV3, which recipe "
            "ssd-mobilenetv3-coco describes; --recipe ssd-mobilenetv2-coco is theirs",
        ),
        ("ssd_mobilenetv2", "ssdlite-mobilenetv2-coco", "not of an SSDLite of uvipen/SSD-pytorch"),
        (
            "ssdlite_mobilenetv2",
            "ssd-resnet50-coco",
            "the weights of an SSDLite of uvipen/SSD-pytorch, not of an SSD-ResNet50",
        ),
        (
            "ssdlite_mobilenetv2",
            "ssd-resnet34-coco",
            "no published file of this network is known",
        ),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            convert(files[detector], target, recipe, "", False)
    assert not os.path.exists(target)


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda t: t.pop("network.multi_box.multi_loc_layers.3.1.gamma"),
            "missing multi_box.multi_loc_layers.3.1.gamma",
        ),
        (lambda t: t.update({"network.more": np.zeros(3, "f4")}), "unexpected more"),
        (
            lambda t: t.update({"network.multi_box.multi_loc_layers.0.3.bias": np.zeros(13, "f4")}),
            r"multi_box.multi_loc_layers.0.3.bias has shape \(13,\), not \(12,\)",
        ),
        (
            lambda t: t.update({"network.multi_box.multi_cls_layers.0.3.bias": np.zeros(80, "f4")}),
            r"multi_cls_layers.0.3.bias has shape \(80,\), no multiple of 3 boxes a cell",
        ),
        (
            lambda t: t["network.multi_box.multi_loc_layers.0.3.bias"].fill(np.inf),
            "_loc_layers.0.3.bias is not finite",
        ),
    ],
)
def test_damaged_tensors_are_named(tmp_path, change, words):
    network = build_detector(load_recipe("ssd-mobilenetv2-coco")).network
    shapes = {name: parameter.shape for name, parameter in network.reference_parameters().items()}
    tensors = {
        f"network.{name}": value for name, value in tensors_of("ssd_mobilenetv2", shapes, 0).items()
    }
    change(tensors)
    write_mindspore(str(tmp_path / "a.ckpt"), tensors)
    with pytest.raises(UserError, match=words):
        convert(str(tmp_path / "a.ckpt"), str(tmp_path / "out.params"), "", "", False)
    assert not (tmp_path / "out.params").exists()


def test_cocos_classes_are_those_of_its_files():
    import json

    with open(shared_path("data/coco300/annotations/instances_val2017.json")) as file:
        categories = json.load(file)["categories"]
    assert tuple(one["name"] for one in categories) == coco_classes.NAMES
    assert tuple(one["id"] for one in categories) == coco_classes.IDS
