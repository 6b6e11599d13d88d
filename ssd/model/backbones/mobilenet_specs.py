"""The MobileNets of this project as plain numbers: what the network, its weight files and their
graphs are made from.

V2: Sandler et al., 2018, table 2, as torchvision's mobilenet_v2 of width 1 and MindCV's
mobilenet_v2_100 have it. V3 large: Howard et al., 2019, table 1, as MindCV's mobilenet_v3_large_100
has it, whose depthwise convolutions pad as TensorFlow does.
"""

from __future__ import annotations

from typing import Dict, Iterator, NamedTuple, Tuple

from ssd.model.backbones.norm_shapes import norm_shapes


class Bottleneck(NamedTuple):
    """An inverted residual block, block{number} by name. hidden: channels between; if equal to
    inputs, there is no expansion. squeeze: channels in the middle of its squeeze-and-excitation, 0
    for none. activation: relu6, relu or hard_swish."""

    number: int
    inputs: int
    hidden: int
    channels: int
    kernel: int
    stride: int
    squeeze: int
    activation: str

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.inputs == self.channels


class MobileNetSpec(NamedTuple):
    """stem: channels of the first convolution; last: of the 1x1 behind the blocks. activation: of
    both. same: depthwise convolutions pad as TensorFlow's "same" (else half the kernel). tap: the
    block at which the first map is taken (at a 16th of the image's sides); the second map is the
    last layer's. prefix: of the network's parameters. classifier: widths of the layers behind the
    last one in the network that was trained on ImageNet."""

    name: str
    stem: int
    blocks: Tuple[Bottleneck, ...]
    last: int
    activation: str
    same: bool
    tap: int
    prefix: str
    classifier: Tuple[int, ...] = (1000,)


def _v2() -> Tuple[Bottleneck, ...]:
    blocks, inputs = [], 32
    # expansion, channels, repeats, stride of the first
    for expand, channels, repeats, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for index in range(repeats):
            blocks.append(
                Bottleneck(
                    len(blocks) + 1,
                    inputs,
                    inputs * expand,
                    channels,
                    3,
                    1 if index else stride,
                    0,
                    "relu6",
                )
            )
            inputs = channels
    return tuple(blocks)


def _v3() -> Tuple[Bottleneck, ...]:
    blocks, inputs = [], 16
    # kernel, hidden, channels, squeeze, activation, stride
    for kernel, hidden, channels, squeeze, activation, stride in (
        (3, 16, 16, 0, "relu", 1),
        (3, 64, 24, 0, "relu", 2),
        (3, 72, 24, 0, "relu", 1),
        (5, 72, 40, 24, "relu", 2),
        (5, 120, 40, 32, "relu", 1),
        (5, 120, 40, 32, "relu", 1),
        (3, 240, 80, 0, "hard_swish", 2),
        (3, 200, 80, 0, "hard_swish", 1),
        (3, 184, 80, 0, "hard_swish", 1),
        (3, 184, 80, 0, "hard_swish", 1),
        (3, 480, 112, 120, "hard_swish", 1),
        (3, 672, 112, 168, "hard_swish", 1),
        (5, 672, 160, 168, "hard_swish", 2),
        (5, 960, 160, 240, "hard_swish", 1),
        (5, 960, 160, 240, "hard_swish", 1),
    ):
        blocks.append(
            Bottleneck(
                len(blocks) + 1, inputs, hidden, channels, kernel, stride, squeeze, activation
            )
        )
        inputs = channels
    return tuple(blocks)


SPECS: Dict[str, MobileNetSpec] = {
    "mobilenet_v2": MobileNetSpec(
        "mobilenet_v2", 32, _v2(), 1280, "relu6", False, 13, "mobilenetv2_"
    ),
    "mobilenet_v3_large": MobileNetSpec(
        "mobilenet_v3_large", 16, _v3(), 960, "hard_swish", True, 12, "mobilenetv3_", (1280, 1000)
    ),
}


def scaled_blocks(spec: MobileNetSpec, scaled=lambda channels: channels) -> Iterator[Bottleneck]:
    """The blocks of a narrower network. scaled: its channels; a block without expansion gets
    none."""
    for block in spec.blocks:
        inputs = scaled(block.inputs)
        hidden = inputs if block.hidden == block.inputs else scaled(block.hidden)
        yield block._replace(
            inputs=inputs,
            hidden=hidden,
            channels=scaled(block.channels),
            squeeze=scaled(block.squeeze) if block.squeeze else 0,
        )


def backbone_shapes(name: str) -> Dict[str, Tuple[int, ...]]:
    """{name by structure: shape} of every tensor of the backbone `name`, convolutions as OIHW:
    stem.conv.weight, block{k}.expand.conv.weight, block{k}.depthwise.bn.running_mean,
    block{k}.se.reduce.bias, last.conv.weight, ..."""
    spec, shapes = SPECS[name], {}

    def add(part: str, channels: int, inputs: int, kernel: int) -> None:
        shapes[f"{part}.conv.weight"] = (channels, inputs, kernel, kernel)
        shapes.update(norm_shapes(f"{part}.bn", channels))

    add("stem", spec.stem, 3, 3)
    for block in spec.blocks:
        part = f"block{block.number}"
        if block.hidden != block.inputs:
            add(f"{part}.expand", block.hidden, block.inputs, 1)
        add(f"{part}.depthwise", block.hidden, 1, block.kernel)
        if block.squeeze:
            for layer, channels, inputs in (
                ("reduce", block.squeeze, block.hidden),
                ("expand", block.hidden, block.squeeze),
            ):
                shapes[f"{part}.se.{layer}.weight"] = (channels, inputs, 1, 1)
                shapes[f"{part}.se.{layer}.bias"] = (channels,)
        add(f"{part}.project", block.channels, block.hidden, 1)
    add("last", spec.last, spec.blocks[-1].channels, 1)
    return shapes


def classifier_shapes(name: str) -> Dict[str, Tuple[int, ...]]:
    """The same with the classifier, whose tensors have the names of torchvision and MindCV."""
    shapes = backbone_shapes(name)
    widths = (SPECS[name].last, *SPECS[name].classifier)
    for layer, inputs, channels in zip(
        ("1",) if len(widths) == 2 else ("0", "3"), widths, widths[1:]
    ):
        shapes[f"classifier.{layer}.weight"], shapes[f"classifier.{layer}.bias"] = (
            (channels, inputs),
            (channels,),
        )
    return shapes
