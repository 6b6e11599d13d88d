"""A feature pyramid: the backbone's maps joined from coarse to fine, and two coarser ones.

From the PyTorch reference of MLPerf Training v2.0 to v5.1 (torchvision's FeaturePyramidNetwork and
LastLevelP6P7; Lin et al., 2017).
"""

from __future__ import annotations

from typing import Dict, List, Tuple

from mxnet.gluon import HybridBlock, Parameter, nn

from ssd.config import ModelConfig
from ssd.model.initial import Constant, FanIn
from ssd.model.layers import convolution, scaled, twice

COARSER = 2  # maps behind the backbone's, P6 and P7


class Pyramid:
    """`maps(F, taps)`: P3 to P7, an eighth to a 128th of the image's sides, from three maps of the
    backbone. This is no Gluon block: `children` become children of the network.

    channels: of every map. children: attribute of the network -> block. P6 follows from P5, not
    from the backbone.
    """

    def __init__(self, config: ModelConfig, channels: List[int], sizes):
        """To be built within the network's name scope."""
        width = scaled(config.pyramid_channels, config)
        self.layout, self._shapes = config.layout, sizes.maps
        lateral, smooth, coarser = (nn.HybridSequential(prefix="") for _ in range(3))
        for index, inner in enumerate(channels):
            lateral.add(
                convolution(config, inner, width, 1, bias=True, prefix=f"fpn_lateral{index}_")
            )
            smooth.add(
                convolution(config, width, width, 3, pad=1, bias=True, prefix=f"fpn_smooth{index}_")
            )
        for index in range(COARSER):
            coarser.add(
                convolution(
                    config,
                    width,
                    width,
                    3,
                    stride=2,
                    pad=1,
                    bias=True,
                    prefix=f"fpn_coarser{index}_",
                )
            )
        self.channels = [width] * (len(channels) + COARSER)
        self.children: Dict[str, HybridBlock] = dict(
            fpn_lateral=lateral, fpn_smooth=smooth, fpn_coarser=coarser
        )

    def maps(self, F, taps) -> List:
        lateral, smooth, coarser = self.children.values()
        inner = [layer(tap) for layer, tap in zip(lateral, taps)]
        for index in range(len(inner) - 1, 0, -1):
            inner[index - 1] = inner[index - 1] + enlarged_by_nearest(
                F, inner[index], self.layout, self._shapes[index - 1]
            )
        maps = [layer(part) for layer, part in zip(smooth, inner)]
        x = maps[-1]
        for index, layer in enumerate(coarser):
            x = layer(F.Activation(x, act_type="relu") if index else x)
            maps.append(x)
        return maps

    def initial(self) -> Dict[str, object]:
        """How parameters are drawn, by their names."""
        return {
            name: FanIn() if name.endswith("_weight") else Constant(0.0)
            for block in self.children.values()
            for name in block.collect_params()
        }

    def reference_parameters(self) -> Dict[str, Parameter]:
        """The reference's name -> parameter."""
        found = {}
        for (name, block), parts in zip(
            (
                ("inner_blocks", self.children["fpn_lateral"]),
                ("layer_blocks", self.children["fpn_smooth"]),
                ("extra_blocks", self.children["fpn_coarser"]),
            ),
            (range(3), range(3), ("p6", "p7")),
        ):
            for part, layer in zip(parts, block):
                found[f"backbone.fpn.{name}.{part}.weight"] = layer.weight
                found[f"backbone.fpn.{name}.{part}.bias"] = layer.bias
        return found


def enlarged_by_nearest(F, x, layout: str, size: Tuple[int, int]):
    """A map with twice the cells by nearest neighbour, cut to `size` (height, width). As sides are
    halved rounding up, this equals nearest-neighbour enlarging to that size."""
    axes = (2, 3) if layout == "NCHW" else (1, 2)
    x = twice(F, x, layout)
    for axis, cells in zip(axes, size):
        if cells % 2:
            x = F.slice_axis(x, axis=axis, begin=0, end=cells)
    return x
