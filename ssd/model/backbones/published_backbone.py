"""Published ImageNet weights of a backbone: PyTorch's .pth with torchvision's tensor names,
MindSpore's .ckpt with MindCV's."""

from __future__ import annotations

from typing import Callable, Dict

import numpy as np

from ssd.model.backbones.naming import has_gamma, mindcv_names, torchvision_names, without_state
from ssd.model.backbones.onnx_file import check_backbone_tensors, write_backbone
from ssd.model.backbones.onnx_graph import BATCH_NORM_EPS
from ssd.model.mindspore_file import read_checkpoint
from ssd.model.torch_file import read_state_dict

TORCHVISION_V3_EPS = 1e-3  # of BatchNorm in its MobileNetV3 only


def is_mindspore(path: str) -> bool:
    """Whether a file begins as a MindSpore checkpoint, which no PyTorch file does. False for
    a file that cannot be read, for which the reader raises a clearer error."""
    try:
        with open(path, "rb") as file:
            return file.read(1) == b"\x0a"  # the key of its first parameter
    except OSError:
        return False


def convert_backbone(
    source: str,
    target: str,
    backbone: str,
    pyramid: bool = False,
    report: Callable[[str], None] = print,
) -> None:
    """Writes the ONNX file `target` of the backbone from a published file of the classification
    network.
    UserError as for read_state_dict, read_checkpoint and check_backbone_tensors."""
    if is_mindspore(source):
        tensors = without_state(read_checkpoint(source))
        gamma = has_gamma(tensors)
        write_backbone(
            tensors,
            target,
            backbone,
            source,
            report,
            pyramid,
            same_pool=pyramid,
            names_of=lambda name: mindcv_names(name, gamma),
        )
        return
    tensors = check_backbone_tensors(
        read_state_dict(source), backbone, source, report, pyramid, torchvision_names
    )
    if backbone == "mobilenet_v3_large":
        tensors = _other_epsilon(tensors, TORCHVISION_V3_EPS)
        report(
            f"{source}: BatchNorm's epsilon of {TORCHVISION_V3_EPS:g} became a part of the running "
            "variances; padding is MindCV's here, where torchvision's is symmetric, so that maps "
            "differ a little"
        )
    write_backbone(tensors, target, backbone, source, report, pyramid)


def _other_epsilon(tensors: Dict[str, np.ndarray], epsilon: float) -> Dict[str, np.ndarray]:
    """Tensors whose variances include the difference between `epsilon` and ours."""
    return {
        name: (tensor + np.float32(epsilon - BATCH_NORM_EPS))
        if name.endswith(".running_var")
        else tensor
        for name, tensor in tensors.items()
    }
