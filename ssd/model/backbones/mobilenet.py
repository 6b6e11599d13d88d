"""MobileNetV2 and V3 as a detector's backbone: what ssd.model.backbones.mobilenet_specs
describes."""

from __future__ import annotations

from typing import Dict, List, Tuple

from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.parameter import Parameter

from ssd.config import ModelConfig
from ssd.errors import UserError
from ssd.model.backbones import mobilenet_specs
from ssd.model.backbones.mobilenet_specs import Bottleneck, MobileNetSpec
from ssd.model.conv_norm import ACTIVATIONS, ConvNorm, norm_parameters
from ssd.model.layers import convolution, input_channels, scaled

Shape = Tuple[int, int]


class SqueezeExcitation(HybridBlock):
    """Each channel times a factor in [0, 1] computed from the means of all channels."""

    def __init__(self, config: ModelConfig, channels: int, squeezed: int, **kwargs):
        super().__init__(**kwargs)
        self._axes = (2, 3) if config.layout == "NCHW" else (1, 2)
        with self.name_scope():
            self.reduce = convolution(config, channels, squeezed, 1, bias=True)
            self.expand = convolution(config, squeezed, channels, 1, bias=True)

    def hybrid_forward(self, F, x):
        factor = F.Activation(
            self.reduce(F.mean(x, axis=self._axes, keepdims=True)), act_type="relu"
        )
        return F.broadcast_mul(x, F.hard_sigmoid(self.expand(factor), alpha=1 / 6, beta=0.5))


class InvertedResidual(HybridBlock):
    """Expansion, depthwise convolution, squeeze-and-excitation where the block has it, projection
    without an activation. size: (height, width) of its input [cells]; `size`: of its output."""

    def __init__(self, config: ModelConfig, block: Bottleneck, same: bool, size: Shape, **kwargs):
        super().__init__(**kwargs)
        self._residual = block.residual
        self.expand = self.se = None
        with self.name_scope():
            if block.hidden != block.inputs:
                self.expand = ConvNorm(
                    config, block.inputs, block.hidden, 1, activation=block.activation
                )
            self.depthwise = ConvNorm(
                config,
                block.hidden,
                block.hidden,
                block.kernel,
                stride=block.stride,
                depthwise=True,
                same=same,
                size=size,
                activation=block.activation,
            )
            if block.squeeze:
                self.se = SqueezeExcitation(config, block.hidden, block.squeeze)
            self.project = ConvNorm(config, block.hidden, block.channels, 1)
        self.size = self.depthwise.size

    def hybrid_forward(self, F, x):
        hidden = x if self.expand is None else self.expand(x)
        y = self.depthwise(hidden)
        y = self.project(y if self.se is None else self.se(y))
        # The expansion too, for a detector that takes it as a feature map.
        return (x + y if self._residual else y), hidden

    def parts(self) -> Dict[str, HybridBlock]:
        return {
            name: part
            for name in ("expand", "depthwise", "se", "project")
            for part in (getattr(self, name),)
            if part is not None
        }


class MobileNet(HybridBlock):
    """Images (B, 3 or 4, H, W), or (B, H, W, 4) with NHWC, to two maps, of a 16th and of a 32nd of
    the sides; `channels`: those of each.

    The first is the output of the spec's block, or, where inner_tap, the expansion inside the next
    one. config's frozen_stages counts the stem and then the blocks.
    """

    def __init__(self, config: ModelConfig, spec: MobileNetSpec, inner_tap: bool):
        super().__init__(prefix=spec.prefix)
        blocks = list(
            mobilenet_specs.scaled_blocks(spec, lambda channels: scaled(channels, config))
        )
        if config.frozen_stages:
            raise UserError(
                f"frozen_stages: {config.frozen_stages}, but {spec.name} is trained as a whole"
            )
        self.layout, self._tap, self._inner_tap = config.layout, spec.tap, inner_tap
        size = tuple(config.image_size)
        with self.name_scope():
            self.stem = ConvNorm(
                config,
                input_channels(config),
                scaled(spec.stem, config),
                3,
                stride=2,
                size=size,
                activation=spec.activation,
            )
            size = self.stem.size
            self.blocks = nn.HybridSequential(prefix="")
            for block in blocks:
                self.blocks.add(
                    InvertedResidual(config, block, spec.same, size, prefix=f"block{block.number}_")
                )
                size = self.blocks[-1].size
            last = scaled(spec.last, config)
            self.last = ConvNorm(config, blocks[-1].channels, last, 1, activation=spec.activation)
        self.channels = [
            blocks[spec.tap].hidden if inner_tap else blocks[spec.tap - 1].channels,
            last,
        ]

    @property
    def conv1(self):
        """The convolution whose input channels may be padded. No attribute: Gluon would list the
        block twice."""
        return self.stem.conv

    def hybrid_forward(self, F, x):
        x, first = self.stem(x), None
        for number, block in enumerate(self.blocks, start=1):
            x, hidden = block(x)
            if number == self._tap and not self._inner_tap:
                first = x
            elif number == self._tap + 1 and self._inner_tap:
                first = hidden
        return [first, self.last(x)]

    def maps(self, F, images) -> List:
        """The two maps, from fine to coarse."""
        return list(self(images))

    def torchvision_parameters(self) -> Dict[str, Parameter]:
        """Name by structure (ssd.model.backbones.mobilenet_specs.backbone_shapes) -> parameter."""
        result = norm_parameters("stem", self.stem)
        for number, block in enumerate(self.blocks, start=1):
            for name, part in block.parts().items():
                if name == "se":
                    for layer in ("reduce", "expand"):
                        result[f"block{number}.se.{layer}.weight"] = getattr(part, layer).weight
                        result[f"block{number}.se.{layer}.bias"] = getattr(part, layer).bias
                else:
                    result.update(norm_parameters(f"block{number}.{name}", part))
        result.update(norm_parameters("last", self.last))
        return result


def mobilenet(config: ModelConfig) -> MobileNet:
    """The MobileNet that model.backbone names, with the taps that model.features needs."""
    return MobileNet(
        config,
        mobilenet_specs.SPECS[config.backbone],
        inner_tap=config.features == "ssdlite_blocks",
    )


assert set(ACTIVATIONS) >= {
    block.activation for spec in mobilenet_specs.SPECS.values() for block in spec.blocks
}
