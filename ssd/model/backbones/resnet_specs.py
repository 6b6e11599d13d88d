"""The ResNets of this project as plain numbers: what the network, its weight files and their graphs
are made from.

Structure: torchvision's ResNets (He et al., 2015, table 1; the 50-layer ones with the stride in the
3x3 convolution, "v1.5"; ResNeXt: Xie et al., 2017, table 1). SSD keeps them up to layer3, whose
first block has stride 1, as the PyTorch reference of MLPerf Training v1.1 (base_model.py) and, of
ResNet-50, uvipen/SSD-pytorch do. A feature pyramid takes all stages, and their maps of an
eighth, a sixteenth and a 32nd of the image's sides, as the PyTorch reference of MLPerf Training
v2.0 to v5.1 does.
"""

from __future__ import annotations

import math
from typing import Dict, Iterator, NamedTuple, Optional, Tuple

STEM_CHANNELS = 64
IMAGENET_CLASSES = 1000


class Stage(NamedTuple):
    """blocks: how many; channels: of its output; stride: of its first block, None where the stage
    is dropped."""

    blocks: int
    channels: int
    stride: Optional[int]


class ResNetSpec(NamedTuple):
    """name: torchvision's. expansion: channels of a block's output over those of its 3x3
    convolution; 1 is the basic block of two 3x3 convolutions, others are bottlenecks. prefix: of
    the network's parameters. groups: of the 3x3 convolutions. taps: the stages (from 1) whose
    outputs the detector works on."""

    name: str
    expansion: int
    stages: Tuple[Stage, ...]
    prefix: str
    groups: int = 1
    taps: Tuple[int, ...] = (3,)

    @property
    def kept(self) -> Tuple[Stage, ...]:
        """The stages that the detector keeps."""
        return tuple(stage for stage in self.stages if stage.stride is not None)


class Convolution(NamedTuple):
    """A convolution without bias and the BatchNorm after it, by torchvision's names within its
    block. groups: of channels that are convolved separately."""

    name: str
    norm: str
    in_channels: int
    channels: int
    kernel: int
    stride: int
    groups: int = 1


class Block(NamedTuple):
    """A residual block: its convolutions in order, and the one on its shortcut or None."""

    name: str
    convolutions: Tuple[Convolution, ...]
    shortcut: Optional[Convolution]


# As SSD uses them, except ResNeXt, which only a pyramid uses.
SPECS: Dict[str, ResNetSpec] = {
    "resnet34": ResNetSpec(
        "resnet34",
        1,
        (Stage(3, 64, 1), Stage(4, 128, 2), Stage(6, 256, 1), Stage(3, 512, None)),
        "resnetmlperf0_",
    ),  # a prefix that the compliance checker's rule set expects
    "resnet50": ResNetSpec(
        "resnet50",
        4,
        (Stage(3, 256, 1), Stage(4, 512, 2), Stage(6, 1024, 1), Stage(3, 2048, None)),
        "resnet50_",
    ),
    "resnext50_32x4d": ResNetSpec(
        "resnext50_32x4d",
        2,
        (Stage(3, 256, 1), Stage(4, 512, 2), Stage(6, 1024, 2), Stage(3, 2048, 2)),
        "resnext50_",
        32,
        (2, 3, 4),
    ),
}


def spec_of(name: str, pyramid: bool = False) -> ResNetSpec:
    """The backbone of that name as SSD's, or as a feature pyramid's."""
    spec = SPECS[name]
    if not pyramid:
        return spec
    stages = tuple(
        stage._replace(stride=1 if number == 0 else 2) for number, stage in enumerate(spec.stages)
    )
    return spec._replace(stages=stages, taps=(2, 3, 4))


def stem(spec: ResNetSpec, channels: int = STEM_CHANNELS) -> Convolution:
    return Convolution("conv1", "bn1", 3, channels, 7, 2)


def residual_blocks(
    spec: ResNetSpec, stages: Tuple[Stage, ...], scaled=lambda channels: channels
) -> Iterator[Tuple[int, Block]]:
    """(number of the stage from 1, Block) of the stages, in order. scaled: the channels of a
    narrower network."""
    channels = scaled(STEM_CHANNELS)
    for number, stage in enumerate(stages, start=1):
        out, middle = scaled(stage.channels), scaled(stage.channels // spec.expansion)
        groups = spec.groups
        if groups > 1 and middle * spec.expansion < stage.channels:
            # A narrower ResNeXt has fewer groups, of 16 channels at least: smaller ones are slow to
            # train on AVX-512, see ssd.model.layers.ScaledConv2D.
            groups = math.gcd(
                middle,
                max(1, min(groups * middle * spec.expansion // stage.channels, middle // 16)),
            )
        for index in range(stage.blocks):
            # A stage that SSD drops is described only for the shapes of its tensors, which do not
            # depend on the stride.
            stride = (stage.stride or 1) if index == 0 else 1
            if spec.expansion == 1:
                parts = ((channels, out, 3, stride), (out, out, 3, 1))
            else:
                parts = (
                    (channels, middle, 1, 1),
                    (middle, middle, 3, stride, groups),
                    (middle, out, 1, 1),
                )
            convolutions = tuple(
                Convolution(f"conv{position}", f"bn{position}", *part)
                for position, part in enumerate(parts, start=1)
            )
            # torchvision has one where shape or stride changes; a change of channels alone is
            # enough for its networks.
            needed = index == 0 and (channels != out or stride != 1)
            shortcut = (
                Convolution("downsample.0", "downsample.1", channels, out, 1, stride)
                if needed
                else None
            )
            yield number, Block(f"layer{number}.{index}", convolutions, shortcut)
            channels = out


def backbone_shapes(name: str, pyramid: bool = False) -> Dict[str, Tuple[int, ...]]:
    """{torchvision's name: shape} of every tensor that the detector keeps of the backbone `name`,
    convolutions as OIHW."""
    spec = spec_of(name, pyramid)
    return _shapes(spec, spec.kept)


def classifier_shapes(name: str) -> Dict[str, Tuple[int, ...]]:
    """The same of torchvision's classification network, with layer4 and fc, without
    num_batches_tracked."""
    spec = SPECS[name]
    shapes = _shapes(spec, spec.stages)
    shapes["fc.weight"], shapes["fc.bias"] = (
        (IMAGENET_CLASSES, spec.stages[-1].channels),
        (IMAGENET_CLASSES,),
    )
    return shapes


def _shapes(spec: ResNetSpec, stages: Tuple[Stage, ...]) -> Dict[str, Tuple[int, ...]]:
    shapes: Dict[str, Tuple[int, ...]] = {}

    def add(layer: Convolution, within: str = "") -> None:
        shapes[f"{within}{layer.name}.weight"] = (
            layer.channels,
            layer.in_channels // layer.groups,
            layer.kernel,
            layer.kernel,
        )
        shapes.update(
            {
                f"{within}{layer.norm}.{part}": (layer.channels,)
                for part in ("weight", "bias", "running_mean", "running_var")
            }
        )

    add(stem(spec))
    for _, block in residual_blocks(spec, stages):
        for layer in block.convolutions + ((block.shortcut,) if block.shortcut else ()):
            add(layer, f"{block.name}.")
    return shapes
