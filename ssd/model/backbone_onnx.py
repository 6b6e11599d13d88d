"""SSD's ResNet-34 backbone as an ONNX file: torchvision's tensor names, BatchNorm unfused.

Structure: torchvision's ResNet-34 (He et al., 2015, the 34-layer column of table 1). SSD keeps it up to
layer3 and gives layer3's first block stride 1, as the PyTorch reference of MLPerf Training v1.1 does.
"""
from __future__ import annotations

import os
import sys
from typing import Any, Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from ssd.errors import UserError

STEM_CHANNELS = 64
# Blocks and channels of layer1 to layer4, and the stride that SSD gives the first block of those it keeps.
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 1), (3, 512, None))
SSD_STAGES = 3
CLASSES = 1000
BATCH_NORM_EPS = 1e-5
OPSET, IR_VERSION = 13, 8  # old enough for every onnxruntime of pyproject.toml


class _Block(NamedTuple):
    name: str  # "layer2.0"
    in_channels: int
    channels: int
    stride: Optional[int]  # None in the stage that SSD drops
    downsample: bool


def _blocks(stages: tuple) -> Iterator[_Block]:
    channels = STEM_CHANNELS
    for stage, (count, out_channels, stride) in enumerate(stages, start=1):
        for index in range(count):
            # The 1x1 convolution stands where torchvision's own shape or stride changes: not in layer1.
            yield _Block(f"layer{stage}.{index}", channels, out_channels, stride if index == 0 else 1,
                         index == 0 and stage > 1)
            channels = out_channels


def _batch_norm_shapes(name: str, channels: int) -> Dict[str, Tuple[int, ...]]:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def _shapes(stages: tuple) -> Dict[str, Tuple[int, ...]]:
    shapes: Dict[str, Tuple[int, ...]] = {"conv1.weight": (STEM_CHANNELS, 3, 7, 7)}
    shapes.update(_batch_norm_shapes("bn1", STEM_CHANNELS))
    for block in _blocks(stages):
        for index, in_channels in ((1, block.in_channels), (2, block.channels)):
            shapes[f"{block.name}.conv{index}.weight"] = (block.channels, in_channels, 3, 3)
            shapes.update(_batch_norm_shapes(f"{block.name}.bn{index}", block.channels))
        if block.downsample:
            shapes[f"{block.name}.downsample.0.weight"] = (block.channels, block.in_channels, 1, 1)
            shapes.update(_batch_norm_shapes(f"{block.name}.downsample.1", block.channels))
    return shapes


def backbone_shapes() -> Dict[str, Tuple[int, ...]]:
    """{torchvision's name: shape} of every tensor of SSD's backbone, convolutions as (out, in, h, w)."""
    return _shapes(STAGES[:SSD_STAGES])


def resnet34_shapes() -> Dict[str, Tuple[int, ...]]:
    """The same for the whole ResNet-34, with layer4 and fc, without num_batches_tracked."""
    shapes = _shapes(STAGES)
    shapes["fc.weight"], shapes["fc.bias"] = (CLASSES, STAGES[-1][1]), (CLASSES,)
    return shapes


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def check_backbone_tensors(tensors: Mapping[str, np.ndarray], source: str = "backbone",
                           say: Callable[[str], None] = _say) -> Dict[str, np.ndarray]:
    """The tensors of SSD's backbone, in the order of backbone_shapes(), float32, shapes as there.

    tensors: {torchvision's name: array}, of SSD's backbone or of the whole ResNet-34. layer4, fc and
    BatchNorm's counters num_batches_tracked are no part of the backbone: with their right shapes they are
    dropped, and `say` gets a line about layer4 and fc. `source` begins every message.

    Raises UserError, naming the tensor, for one that is missing or unexpected, has another shape or type than
    float32, or holds NaN, infinity or a negative running variance.
    """
    needed, known = backbone_shapes(), resnet34_shapes()
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
            "SSD's backbone ends at layer3")
    return {name: tensors[name] for name in needed}


def _graph_nodes(helper: Any) -> list:
    nodes = []

    def add(kind: str, inputs: list, name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def convolve(x: str, convolution: str, norm: str, size: int, stride: int) -> str:
        x = add("Conv", [x, f"{convolution}.weight"], convolution, kernel_shape=[size, size],
                strides=[stride, stride], pads=[size // 2] * 4)
        parts = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        return add("BatchNormalization", [x, *parts], norm, epsilon=BATCH_NORM_EPS)

    x = add("Relu", [convolve("images", "conv1", "bn1", 7, 2)], "relu")
    x = add("MaxPool", [x], "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for block in _blocks(STAGES[:SSD_STAGES]):
        name, shortcut = block.name, x
        y = add("Relu", [convolve(x, f"{name}.conv1", f"{name}.bn1", 3, block.stride)], f"{name}.relu1")
        y = convolve(y, f"{name}.conv2", f"{name}.bn2", 3, 1)
        if block.downsample:
            shortcut = convolve(x, f"{name}.downsample.0", f"{name}.downsample.1", 1, block.stride)
        x = add("Relu", [add("Add", [y, shortcut], f"{name}.add")], f"{name}.relu2")
    nodes[-1].output[0] = "features"
    return nodes


def write_backbone(state_dict: Mapping[str, np.ndarray], path: str, source: str = "backbone",
                   say: Callable[[str], None] = _say) -> None:
    """Write SSD's backbone to `path`; an older file there is replaced only by a whole new one.

    state_dict, source, say: as for check_backbone_tensors, whose errors come before anything is written.
    The graph: input "images" (N, 3, H, W) float32, RGB normalised with ImageNet's mean and standard
    deviation; output "features" (N, 256, ceil(H/8), ceil(W/8)): 300x300 pixels give 38x38. N, H, W are free.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tensors = check_backbone_tensors(state_dict, source, say)
    graph = helper.make_graph(
        _graph_nodes(helper), "ssd_resnet34_backbone",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 256, "H8", "W8"])],
        initializer=[numpy_helper.from_array(np.ascontiguousarray(tensor), name)
                     for name, tensor in tensors.items()])
    model = helper.make_model(graph, producer_name="ssd-benchmark", ir_version=IR_VERSION,
                              opset_imports=[helper.make_opsetid("", OPSET)])
    onnx.checker.check_model(model, full_check=True)
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(model.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        if os.path.exists(partial):
            os.remove(partial)


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


def read_backbone(path: str, say: Callable[[str], None] = _say) -> Dict[str, np.ndarray]:
    """read_initializers and check_backbone_tensors in one: the backbone's tensors of an ONNX file."""
    return check_backbone_tensors(read_initializers(path), path, say)
