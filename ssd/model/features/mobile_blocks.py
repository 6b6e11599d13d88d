"""Extra feature maps for MobileNets: inverted residuals of stride 2.

`ssdlite_blocks`: uvipen/SSD-pytorch, whose blocks are torchvision's. `mobile_blocks`: MindCV's,
padded as TensorFlow does, with an activation at their end, and a 1x1 convolution on the backbone's
first map.
"""

from __future__ import annotations

from typing import Dict, List

from mxnet.gluon import HybridBlock, Parameter, nn

from ssd.config import ModelConfig
from ssd.model.conv_norm import ConvNorm, norm_parameters
from ssd.model.layers import scaled


class ExtraResidual(HybridBlock):
    """1x1, depthwise 3x3 of stride 2 and 1x1 convolution, each with BatchNorm. mindcv: MindCV's
    kind, else SSDLite's."""

    def __init__(
        self,
        config: ModelConfig,
        inputs: int,
        hidden: int,
        channels: int,
        size,
        mindcv: bool,
        **kwargs,
    ):
        super().__init__(**kwargs)
        with self.name_scope():
            self.expand = ConvNorm(config, inputs, hidden, 1, own=True, activation="relu6")
            self.depthwise = ConvNorm(
                config,
                hidden,
                hidden,
                3,
                stride=2,
                depthwise=True,
                same=mindcv,
                size=size,
                own=True,
                activation="relu6",
            )
            self.project = ConvNorm(
                config, hidden, channels, 1, own=True, activation="relu6" if mindcv else None
            )

    def hybrid_forward(self, F, x):
        return self.project(self.depthwise(self.expand(x)))


class MobileBlocks:
    """`maps(F, taps)`: the backbone's two maps and one more per block. This is no Gluon block:
    `children` become children of the network.

    channels: of every map. children: attribute of the network -> block.
    """

    def __init__(self, config: ModelConfig, channels: List[int], sizes, mindcv: bool):
        """To be built within the network's name scope. mindcv: MindCV's kind, else SSDLite's."""
        self._detach = bool(config.detach_first_map)
        self.children: Dict[str, HybridBlock] = {}
        self.channels, self._tap, self._mindcv = list(channels), None, mindcv
        if mindcv:
            width = scaled(config.tap_channels, config)
            activation = "hard_swish" if config.backbone == "mobilenet_v3_large" else "relu6"
            self._tap = ConvNorm(
                config,
                channels[0],
                width,
                1,
                activation=activation,
                own=config.tap_own_norm,
                prefix="tap_",
            )
            self.children["tap"] = self._tap
            self.channels[0] = width
        self._extras = nn.HybridSequential(prefix="")
        for index, (hidden, width) in enumerate(sizes.channels):
            hidden, width = scaled(hidden, config), scaled(width, config)
            self._extras.add(
                ExtraResidual(
                    config,
                    self.channels[-1],
                    hidden,
                    width,
                    sizes.maps[1 + index],
                    mindcv,
                    prefix=f"extra{index}_",
                )
            )
            self.channels.append(width)
        self.children["extras"] = self._extras

    def maps(self, F, taps) -> List:
        first, last = taps
        # As published, SSDLite's first head sends no gradient into the backbone.
        first = F.BlockGrad(first) if self._detach else first
        maps = [first if self._tap is None else self._tap(first), last]
        for block in self._extras:
            maps.append(block(maps[-1]))
        return maps

    def reference_parameters(self) -> Dict[str, Parameter]:
        """The published program's name -> parameter."""
        found = norm_parameters("tap", self._tap) if self._tap is not None else {}
        for index, block in enumerate(self._extras):
            for part in ("expand", "depthwise", "project"):
                found.update(norm_parameters(f"extras.{index}.{part}", getattr(block, part)))
        return found


def ssdlite_blocks(config: ModelConfig, channels: List[int], sizes) -> MobileBlocks:
    return MobileBlocks(config, channels, sizes, mindcv=False)


def mobile_blocks(config: ModelConfig, channels: List[int], sizes) -> MobileBlocks:
    return MobileBlocks(config, channels, sizes, mindcv=True)
