"""A detector's backbone as an ONNX file: torchvision's tensor names, BatchNorm unfused."""
from __future__ import annotations

import sys
from typing import Any, Callable, Dict, List, Mapping

import numpy as np

from ssd.errors import UserError
from ssd.model.backbones.resnet_specs import (
    SPECS, ResNetSpec, backbone_shapes, blocks, spec_of, stem, whole_shapes)
from ssd.files import replace_file, write_errors

BATCH_NORM_EPS = 1e-5
OPSET, IR_VERSION = 13, 8  # old enough for every onnxruntime of pyproject.toml


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def check_backbone_tensors(tensors: Mapping[str, np.ndarray], backbone: str, source: str = "backbone",
                           say: Callable[[str], None] = _say, pyramid: bool = False) -> Dict[str, np.ndarray]:
    """The tensors of the backbone of that name, SSD's or a feature pyramid's, in the order of backbone_shapes(),
    float32, shapes as there.

    tensors: {torchvision's name: array}, of the backbone or of the whole network. fc, with SSD layer4, and
    BatchNorm's counters num_batches_tracked are no part of the backbone: with their right shapes they are
    dropped, and `say` gets a line about layer4 and fc. `source` begins every message.

    Raises UserError, naming the tensor, for one that is missing or unexpected, has another shape or type than
    float32, or holds NaN, infinity or a negative running variance.
    """
    needed, known = backbone_shapes(backbone, pyramid), whole_shapes(backbone)
    _check_network(tensors, backbone, source)
    for norm in [name[:-len(".running_var")] for name in known if name.endswith(".running_var")]:
        known[f"{norm}.num_batches_tracked"] = ()
    dropped = []
    for name, tensor in tensors.items():
        if name not in known:
            raise UserError(f"{source}: unexpected tensor {name} of shape {tuple(tensor.shape)}")
        counter = name.endswith(".num_batches_tracked")
        # A counter is a scalar in PyTorch; some exporters write it as one element.
        if tuple(tensor.shape) != known[name] and not (counter and tensor.size == 1):
            raise UserError(f"{source}: tensor {name} has shape {tuple(tensor.shape)} "
                            f"instead of {known[name]}")
        if name not in needed and not counter:
            dropped.append(name)
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise UserError(f"{source}: missing tensor {missing[0]}"
                        + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""))
    for name in needed:
        tensor = tensors[name]
        if tensor.dtype != np.float32:
            raise UserError(f"{source}: tensor {name} has type {tensor.dtype} instead of float32")
        if not np.isfinite(tensor).all():
            raise UserError(f"{source}: tensor {name} holds NaN or infinity")
        if name.endswith(".running_var") and (tensor < 0).any():
            raise UserError(f"{source}: tensor {name} holds a negative variance")
    if dropped:
        parts = sorted({name.split(".")[0] for name in dropped})
        say(f"{source}: {' and '.join(parts)} ({len(dropped)} tensors) dropped: "
            f"the detector's backbone ends at layer{len(spec_of(backbone, pyramid).kept)}")
    return {name: tensors[name] for name in needed}


def _check_network(tensors: Mapping[str, np.ndarray], backbone: str, source: str) -> None:
    """UserError where the tensors' names and shapes are those of another backbone that is known here."""
    def fits(name):
        return all(shape == tuple(tensors[tensor].shape) if tensor in tensors else False
                   for tensor, shape in backbone_shapes(name).items())
    other = [] if fits(backbone) else [name for name in SPECS if name != backbone and fits(name)]
    if other:
        raise UserError(f"{source}: the weights of {other[0]}, not of {backbone}")


def _graph_nodes(helper: Any, spec: ResNetSpec) -> list:
    nodes = []

    def add(kind: str, inputs: list, name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def convolve(x: str, layer, within: str = "") -> str:
        x = add("Conv", [x, f"{within}{layer.name}.weight"], within + layer.name, kernel_shape=[layer.kernel] * 2,
                strides=[layer.stride] * 2, pads=[layer.kernel // 2] * 4, group=layer.groups)
        parts = [f"{within}{layer.norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        return add("BatchNormalization", [x, *parts], within + layer.norm, epsilon=BATCH_NORM_EPS)

    x = add("Relu", [convolve("images", stem(spec))], "relu")
    x = add("MaxPool", [x], "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    taps = {}
    for number, block in blocks(spec, spec.kept):
        within, y = f"{block.name}.", x
        *first, last = block.convolutions
        for place, layer in enumerate(first, start=1):
            y = add("Relu", [convolve(y, layer, within)], f"{within}relu{place}")
        y = convolve(y, last, within)
        shortcut = convolve(x, block.shortcut, within) if block.shortcut else x
        x = add("Relu", [add("Add", [y, shortcut], f"{within}add")], f"{within}relu{len(block.convolutions)}")
        taps[number] = x
    for number, name in zip(spec.taps, _outputs(spec)):
        add("Identity", [taps[number]], name)
    return nodes


def _outputs(spec: ResNetSpec) -> List[str]:
    """Names of the graph's outputs, of which SSD has one."""
    return ["features"] if len(spec.taps) == 1 else [f"features{number}" for number in spec.taps]


def write_backbone(state_dict: Mapping[str, np.ndarray], path: str, backbone: str, source: str = "backbone",
                   say: Callable[[str], None] = _say, pyramid: bool = False) -> None:
    """Write a detector's backbone to `path`; an older file there is replaced only by a whole new one.

    state_dict, backbone, source, say, pyramid: as for check_backbone_tensors, whose errors come before anything is
    written. The graph: input "images" (N, 3, H, W) float32, RGB normalised with ImageNet's mean and standard
    deviation; output "features" (N, C, ceil(H/8), ceil(W/8)): 300x300 pixels give 38x38; N, H, W are free; C is 256
    for ResNet-34, 1024 for ResNet-50. A pyramid's backbone has "features2" to "features4", of an eighth to a 32nd.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tensors = check_backbone_tensors(state_dict, backbone, source, say, pyramid)
    spec = spec_of(backbone, pyramid)
    graph = helper.make_graph(
        _graph_nodes(helper, spec), f"{'pyramid' if len(spec.taps) > 1 else 'ssd'}_{backbone}_backbone",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", spec.kept[number - 1].channels,
                                                                 f"H{place or 8}", f"W{place or 8}"])
         for place, (name, number) in enumerate(zip(_outputs(spec), spec.taps))],
        initializer=[numpy_helper.from_array(np.ascontiguousarray(tensor), name)
                     for name, tensor in tensors.items()])
    model = helper.make_model(graph, producer_name="ssd-benchmark", ir_version=IR_VERSION,
                              opset_imports=[helper.make_opsetid("", OPSET)])
    onnx.checker.check_model(model, full_check=True)
    with write_errors(path, path):
        replace_file(path, model.SerializeToString())


def read_initializers(path: str) -> Dict[str, np.ndarray]:
    """{name: array} of the weights inside an ONNX file, of whatever network, in the file's order.

    Raises UserError for a file that is not ONNX, holds no weights, or keeps some of them in other files.
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
        raise UserError(f"{path}: not an ONNX file, or one that is cut off") from None
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


def read_backbone(path: str, backbone: str, say: Callable[[str], None] = _say,
                  pyramid: bool = False) -> Dict[str, np.ndarray]:
    """read_initializers and check_backbone_tensors in one: the tensors of an ONNX file of that backbone."""
    return check_backbone_tensors(read_initializers(path), backbone, path, say, pyramid)
