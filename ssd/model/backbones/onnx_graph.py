"""The graphs of the backbones' ONNX files, and which tensors each file holds."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from ssd.model.backbones import mobilenet_specs, resnet_specs
from ssd.model.backbones.mobilenet_specs import MobileNetSpec
from ssd.model.backbones.resnet_specs import ResNetSpec

BATCH_NORM_EPS = 1e-5
NAMES = (*resnet_specs.SPECS, *mobilenet_specs.SPECS)
NORM = ("weight", "bias", "running_mean", "running_var")


class Output(NamedTuple):
    """A feature map of `channels` whose sides are 1/divisor of the image's, rounded up at each
    halving."""

    name: str
    channels: int
    divisor: int


class BackboneFile(NamedTuple):
    """needed, full: {tensor: shape} of the backbone, in order, and of the network with its
    classifier. end: its last layer. title: of the graph. nodes: onnx.helper to the graph's nodes,
    whose input is `images` and whose other inputs are the needed tensors."""

    needed: Dict[str, Tuple[int, ...]]
    full: Dict[str, Tuple[int, ...]]
    end: str
    title: str
    outputs: Tuple[Output, ...]
    nodes: Callable[[Any], list]


def backbone_file(name: str, pyramid: bool = False, same_pool: bool = False) -> BackboneFile:
    """The file of the backbone `name`. pyramid: a ResNet with all stages. same_pool: max-pooling
    pads as TensorFlow does, as in MindCV."""
    if name in mobilenet_specs.SPECS:
        spec = mobilenet_specs.SPECS[name]
        return BackboneFile(
            mobilenet_specs.backbone_shapes(name),
            mobilenet_specs.classifier_shapes(name),
            "last",
            f"ssd_{name}_backbone",
            _mobile_outputs(spec),
            lambda helper: _mobile_nodes(helper, spec),
        )
    spec = resnet_specs.spec_of(name, pyramid)
    several = len(spec.taps) > 1
    outputs = tuple(
        Output(
            f"features{number}" if several else "features",
            spec.kept[number - 1].channels,
            2 ** (number + 1) if several else 8,
        )
        for number in spec.taps
    )
    return BackboneFile(
        resnet_specs.backbone_shapes(name, pyramid),
        resnet_specs.classifier_shapes(name),
        f"layer{len(spec.kept)}",
        f"{'pyramid' if several else 'ssd'}_{name}_backbone",
        outputs,
        lambda helper: _resnet_nodes(helper, spec, outputs, same_pool),
    )


class _Graph:
    """Nodes, each by the name of its output."""

    def __init__(self, helper: Any):
        self.helper, self.nodes = helper, []

    def add(self, kind: str, inputs: List[str], name: str, **attributes: Any) -> str:
        self.nodes.append(self.helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: float) -> str:
        return self.add("Constant", [], name, value_float=value)

    def convolution(
        self,
        x: str,
        name: str,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        same: bool = False,
    ) -> str:
        """same: padded as TensorFlow does, the larger half at the end; else by half the kernel."""
        padding = dict(auto_pad="SAME_UPPER") if same else dict(pads=[kernel // 2] * 4)
        return self.add(
            "Conv",
            [x, f"{name}.weight"] + ([f"{name}.bias"] if bias else []),
            name,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            group=groups,
            **padding,
        )

    def norm(self, x: str, name: str) -> str:
        return self.add(
            "BatchNormalization",
            [x] + [f"{name}.{part}" for part in NORM],
            name,
            epsilon=BATCH_NORM_EPS,
        )

    def activation(self, x: str, kind: str, name: str) -> str:
        if kind == "relu":
            return self.add("Relu", [x], name)
        if kind == "relu6":
            return self.add(
                "Clip", [x, self.constant(f"{name}.0", 0.0), self.constant(f"{name}.6", 6.0)], name
            )
        return self.add("Mul", [x, self.hard_sigmoid(x, f"{name}.gate")], name)

    def hard_sigmoid(self, x: str, name: str) -> str:
        return self.add("HardSigmoid", [x], name, alpha=1 / 6, beta=0.5)


def _resnet_nodes(
    helper: Any, spec: ResNetSpec, outputs: Tuple[Output, ...], same_pool: bool
) -> list:
    graph, taps = _Graph(helper), {}

    def convolve(x: str, layer, within: str = "") -> str:
        x = graph.convolution(x, within + layer.name, layer.kernel, layer.stride, layer.groups)
        return graph.norm(x, within + layer.norm)

    x = graph.activation(convolve("images", resnet_specs.stem(spec)), "relu", "relu")
    x = graph.add(
        "MaxPool",
        [x],
        "maxpool",
        kernel_shape=[3, 3],
        strides=[2, 2],
        **(dict(auto_pad="SAME_UPPER") if same_pool else dict(pads=[1, 1, 1, 1])),
    )
    for number, block in resnet_specs.residual_blocks(spec, spec.kept):
        within, y = f"{block.name}.", x
        *first, last = block.convolutions
        for index, layer in enumerate(first, start=1):
            y = graph.activation(convolve(y, layer, within), "relu", f"{within}relu{index}")
        y = convolve(y, last, within)
        shortcut = convolve(x, block.shortcut, within) if block.shortcut else x
        x = graph.activation(
            graph.add("Add", [y, shortcut], f"{within}add"),
            "relu",
            f"{within}relu{len(block.convolutions)}",
        )
        taps[number] = x
    for number, output in zip(spec.taps, outputs):
        graph.add("Identity", [taps[number]], output.name)
    return graph.nodes


def _mobile_outputs(spec: MobileNetSpec) -> Tuple[Output, ...]:
    """The maps of all detectors: the block that is tapped, the expansion behind it, the last
    layer."""
    tapped, following = spec.blocks[spec.tap - 1], spec.blocks[spec.tap]
    return (
        Output(f"features_block{tapped.number}", tapped.channels, 16),
        Output(f"features_block{following.number}_expand", following.hidden, 16),
        Output("features_last", spec.last, 32),
    )


def _mobile_nodes(helper: Any, spec: MobileNetSpec) -> list:
    graph = _Graph(helper)

    def layer(
        x: str,
        name: str,
        activation: str = "",
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        same: bool = False,
    ) -> str:
        x = graph.norm(
            graph.convolution(x, f"{name}.conv", kernel, stride, groups, same=same), f"{name}.bn"
        )
        return graph.activation(x, activation, f"{name}.activation") if activation else x

    x, maps = layer("images", "stem", spec.activation, 3, 2), []
    for block in spec.blocks:
        name, y = f"block{block.number}", x
        if block.hidden != block.inputs:
            y = layer(y, f"{name}.expand", block.activation)
        if block.number == spec.tap + 1:
            maps.append(y)
        y = layer(
            y,
            f"{name}.depthwise",
            block.activation,
            block.kernel,
            block.stride,
            block.hidden,
            spec.same and block.stride > 1,
        )
        if block.squeeze:
            factor = graph.add("GlobalAveragePool", [y], f"{name}.se.mean")
            factor = graph.convolution(factor, f"{name}.se.reduce", 1, bias=True)
            factor = graph.convolution(
                graph.activation(factor, "relu", f"{name}.se.relu"),
                f"{name}.se.expand",
                1,
                bias=True,
            )
            y = graph.add("Mul", [y, graph.hard_sigmoid(factor, f"{name}.se.factor")], f"{name}.se")
        y = layer(y, f"{name}.project")
        x = graph.add("Add", [x, y], f"{name}.add") if block.residual else y
        if block.number == spec.tap:
            maps.append(x)
    maps.append(layer(x, "last", spec.activation))
    for value, output in zip(maps, _mobile_outputs(spec)):
        graph.add("Identity", [value], output.name)
    return graph.nodes
