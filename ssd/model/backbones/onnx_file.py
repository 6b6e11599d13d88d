"""A detector's backbone as an ONNX file, BatchNorm unfused. Tensors have torchvision's names for a
ResNet, names by structure (ssd.model.backbones.mobilenet_specs) for a MobileNet."""

from __future__ import annotations

import sys
from typing import Callable, Dict, Mapping

import numpy as np

from ssd.errors import UserError
from ssd.files import replace_file, write_errors
from ssd.model.backbones.onnx_graph import NAMES, backbone_file

OPSET, IR_VERSION = 13, 8  # old enough for every onnxruntime that is tested


def _report(message: str) -> None:
    print(message, file=sys.stderr)


def check_backbone_tensors(
    tensors: Mapping[str, np.ndarray],
    backbone: str,
    source: str = "backbone",
    report: Callable[[str], None] = _report,
    pyramid: bool = False,
    names_of: Callable[[str], Dict[str, str]] = lambda backbone: {},
) -> Dict[str, np.ndarray]:
    """The tensors of the backbone of that name, SSD's or a feature pyramid's, in the order of its
    file, under our names, float32, with the shapes of the file.

    tensors: {name: array}, of the backbone or of the classification network. The classifier, with
    SSD a ResNet's layer4, and BatchNorm's counters num_batches_tracked are not part of the
    backbone: if their shapes are right they are dropped, and `report` gets a line about all but the
    counters. `source` begins every message. names_of: backbone -> {our name: the file's}, where
    they differ (ssd.model.backbones.naming).

    Raises UserError, naming the tensor, for one that is missing or unexpected, has another shape or
    type than float32, or holds NaN, infinity or a negative running variance.
    """
    names, file = names_of(backbone), backbone_file(backbone, pyramid)
    needed = {names.get(name, name): name for name in file.needed}
    known = {names.get(name, name): shape for name, shape in file.full.items()}
    _check_network(tensors, backbone, source, names_of)
    for name in file.full:
        if name.endswith(".running_var"):
            known[names.get(name, name).rpartition(".")[0] + ".num_batches_tracked"] = ()
    dropped = []
    for name, tensor in tensors.items():
        if name not in known:
            raise UserError(f"{source}: unexpected tensor {name} of shape {tuple(tensor.shape)}")
        counter = name.endswith(".num_batches_tracked")
        # A counter is a scalar in PyTorch; some exporters write it as one element.
        if tuple(tensor.shape) != known[name] and not (counter and tensor.size == 1):
            raise UserError(
                f"{source}: tensor {name} has shape {tuple(tensor.shape)} instead of {known[name]}"
            )
        if name not in needed and not counter:
            dropped.append(name)
    missing = [name for name in needed if name not in tensors]
    if missing:
        without_layer4 = pyramid and all(name.startswith("layer4.") for name in missing)
        raise UserError(
            f"{source}: missing tensor {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + (
                "; made for SSD; scripts/get_backbone.sh --pyramid keeps layer4"
                if without_layer4
                else ""
            )
        )
    for name, ours in needed.items():
        tensor = tensors[name]
        if tensor.dtype != np.float32:
            raise UserError(f"{source}: tensor {name} has type {tensor.dtype} instead of float32")
        if not np.isfinite(tensor).all():
            raise UserError(f"{source}: tensor {name} holds NaN or infinity")
        if ours.endswith(".running_var") and (tensor < 0).any():
            raise UserError(f"{source}: tensor {name} holds a negative variance")
    if dropped:
        parts = sorted({name.split(".")[0] for name in dropped})
        report(
            f"{source}: {' and '.join(parts)} ({len(dropped)} tensors) dropped: the detector's "
            f"backbone ends at {file.end}"
        )
    return {ours: tensors[name] for name, ours in needed.items()}


def _check_network(tensors: Mapping[str, np.ndarray], backbone: str, source: str, names_of) -> None:
    """UserError where the tensors' names and shapes are those of another known backbone."""

    def fits(other):
        names = names_of(other)
        return all(
            names.get(name, name) in tensors
            and shape == tuple(tensors[names.get(name, name)].shape)
            for name, shape in backbone_file(other).needed.items()
        )

    other = [] if fits(backbone) else [name for name in NAMES if name != backbone and fits(name)]
    if other:
        raise UserError(f"{source}: the weights of {other[0]}, not of {backbone}")


def write_backbone(
    state_dict: Mapping[str, np.ndarray],
    path: str,
    backbone: str,
    source: str = "backbone",
    report: Callable[[str], None] = _report,
    pyramid: bool = False,
    same_pool: bool = False,
    names_of: Callable[[str], Dict[str, str]] = lambda backbone: {},
) -> None:
    """Write a detector's backbone to `path`; an older file is replaced only by a complete new one.

    state_dict, backbone, source, report, pyramid, names_of: as for check_backbone_tensors, whose
    errors are raised before anything is written. The graph: input "images" (N, 3, H, W) float32,
    RGB normalised with ImageNet's mean and standard deviation; N, H, W are free. A ResNet's output
    "features" (N, C, ceil(H/8), ceil(W/8)): 300x300 pixels give 38x38; C is 256 for ResNet-34, 1024
    for ResNet-50. A pyramid's outputs are "features2" to "features4", of an eighth to a 32nd;
    same_pool: its max-pooling pads as MindCV's. A MobileNet's outputs are the maps that some
    detector works on, of a 16th and a 32nd, named by block.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tensors = check_backbone_tensors(state_dict, backbone, source, report, pyramid, names_of)
    file = backbone_file(backbone, pyramid, same_pool)
    graph = helper.make_graph(
        file.nodes(helper),
        file.title,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [
            helper.make_tensor_value_info(
                output.name,
                TensorProto.FLOAT,
                ["N", output.channels, f"H{output.divisor}", f"W{output.divisor}"],
            )
            for output in file.outputs
        ],
        initializer=[
            numpy_helper.from_array(np.ascontiguousarray(tensor), name)
            for name, tensor in tensors.items()
        ],
    )
    model = helper.make_model(
        graph,
        producer_name="ssd-benchmark",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    onnx.checker.check_model(model, full_check=True)
    with write_errors(path, path):
        replace_file(path, model.SerializeToString())


def read_initializers(path: str) -> Dict[str, np.ndarray]:
    """{name: array} of the weights in an ONNX file, of any network, in the file's order.

    Raises UserError for a file that is not ONNX, holds no weights, or keeps some of them in other
    files.
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import TensorProto, numpy_helper

    try:
        with open(path, "rb") as file:
            model = onnx.ModelProto.FromString(file.read())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except DecodeError:
        raise UserError(f"{path}: not an ONNX file, or cut off") from None
    if not model.graph.initializer:
        raise UserError(f"{path}: not an ONNX file with weights")
    tensors: Dict[str, np.ndarray] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise UserError(f"{path}: tensor {tensor.name} is kept in another file")
        if tensor.name in tensors:
            raise UserError(f"{path}: two tensors named {tensor.name}")
        try:
            tensors[tensor.name] = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: tensor {tensor.name} is damaged: {error}") from None
    return tensors


def read_backbone(
    path: str, backbone: str, report: Callable[[str], None] = _report, pyramid: bool = False
) -> Dict[str, np.ndarray]:
    """The checked tensors of a backbone's ONNX file: read_initializers, then
    check_backbone_tensors."""
    return check_backbone_tensors(read_initializers(path), backbone, path, report, pyramid)
