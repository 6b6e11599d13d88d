"""Weights of PyTorch programs: RetinaNet of MLPerf's reference, whose names this project also uses,
and SSD-ResNet50 and SSDLite of uvipen/SSD-pytorch, which mlcommons/abtf-ssd-pytorch has as well."""

from __future__ import annotations

from typing import Tuple

from ssd.model.backbones.naming import torchvision_names
from ssd.model.network import Network
from ssd.model.published.tensor_mapping import TensorPart, TensorPlan, same, value_first

BACKBONE = "feature_extractor.feature_extractor."
# Their names for torchvision's ResNet are the indices of its children.
CHILDREN = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6}
RESIDUAL = {
    "expand.conv": "0.0",
    "expand.bn": "0.1",
    "depthwise.conv": "1.0",
    "depthwise.bn": "1.1",
    "project.conv": "2",
    "project.bn": "3",
}
BRANCH = {"depthwise.conv": "0", "depthwise.bn": "1", "out": "3"}
NORM = (
    ("weight", "gamma"),
    ("bias", "beta"),
    ("running_mean", "running_mean"),
    ("running_var", "running_var"),
)


def retinanet(network: Network, backbone: str, gamma: bool) -> TensorPlan:
    return TensorPlan(same(network.reference_parameters()))


def ssd_resnet50(network: Network, backbone: str, gamma: bool) -> TensorPlan:
    """Each head is one convolution in our network and two in theirs."""
    parameters = network.backbone.torchvision_parameters()
    found = same(
        parameters,
        {
            name: f"{BACKBONE}{CHILDREN[name.split('.')[0]]}.{name.split('.', 1)[1]}"
            for name in parameters
        },
    )
    layers = zip(
        network.expand_trans_convs,
        network.expand_trans_norms,
        network.expand_convs,
        network.expand_norms,
    )
    for index, (*reduce, expand, expand_norm) in enumerate(layers):
        for entry, layer, norm in ((0, *reduce), (3, expand, expand_norm)):
            block = f"additional_blocks.{index}"
            found += same(
                {
                    f"{block}.{entry}.weight": layer.weight,
                    **{
                        f"{block}.{entry + 1}.{theirs}": getattr(norm, ours)
                        for theirs, ours in NORM
                    },
                }
            )
    for index, head in enumerate(network.predictors):
        for kind in ("weight", "bias"):
            parameter = getattr(head.conv, kind)
            found.append(
                (
                    parameter,
                    tuple(
                        TensorPart(
                            f"{name}.{index}.{kind}",
                            (head.boxes * values, *parameter.shape[1:]),
                            value_first(head.boxes, values),
                        )
                        for name, values in (("loc", 4), ("conf", head.classes))
                    ),
                )
            )
    return TensorPlan(found)


def ssdlite(network: Network, backbone: str, gamma: bool) -> TensorPlan:
    """Their lists of heads have a seventh pair that no feature map uses."""
    names, found, unused = torchvision_names(backbone), [], {}
    for name, parameter in network.reference_parameters().items():
        part, rest = name.split(".", 1)
        if part == "backbone":
            found += same({BACKBONE + names[rest].split(".", 1)[1]: parameter})
            continue
        index, layer, kind = _split(rest)
        if part == "extras":
            found += same({f"additional_blocks.{index}.conv.{RESIDUAL[layer]}.{kind}": parameter})
        else:
            theirs, head = f"{part}.{index}.{BRANCH[layer]}.{kind}", network.predictors[int(index)]
            rows = (
                value_first(head.boxes, 4 if part == "loc" else head.classes)
                if layer == "out"
                else None
            )
            found.append((parameter, (TensorPart(theirs, tuple(parameter.shape), rows),)))
    last, count = network.predictors[-1], len(network.predictors)
    for part, branch in (("loc", last.loc), ("conf", last.conf)):
        unused.update(
            {
                f"{part}.{count}.weight": tuple(branch.out.weight.shape),
                f"{part}.{count}.bias": tuple(branch.out.bias.shape),
            }
        )
    return TensorPlan(found, unused)


def _split(name: str) -> Tuple[str, str, str]:
    """'3.expand.bn.weight' as ('3', 'expand.bn', 'weight')."""
    index, rest = name.split(".", 1)
    layer, kind = rest.rsplit(".", 1)
    return index, layer, kind
