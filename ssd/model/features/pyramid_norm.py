"""MindCV's feature pyramid: BatchNorm and ReLU6 after its 3x3 convolutions, padding and enlarging
as in TensorFlow 1."""

from __future__ import annotations

from typing import Dict, List, Tuple

from mxnet.gluon import HybridBlock, Parameter, nn

from ssd.config import ModelConfig
from ssd.model.conv_norm import ConvNorm, norm_parameters
from ssd.model.layers import convolution, scaled, twice

COARSER = 2  # maps behind the backbone's


class NormPyramid:
    """`maps(F, taps)`: five maps, an eighth to a 128th of the image's sides, from three of the
    backbone. This is no Gluon block: `children` become children of the network.

    channels: of every map. children: attribute of the network -> block.
    """

    def __init__(self, config: ModelConfig, channels: List[int], sizes):
        """To be built within the network's name scope."""
        width = scaled(config.pyramid_channels, config)
        self.layout = config.layout
        self._sizes, self._dtype = sizes.maps[: len(channels)], config.dtype
        lateral, smooth, down = (nn.HybridSequential(prefix="") for _ in range(3))
        for index, inner in enumerate(channels):
            lateral.add(
                convolution(config, inner, width, 1, bias=True, prefix=f"fpn_lateral{index}_")
            )
            smooth.add(
                ConvNorm(
                    config,
                    width,
                    width,
                    3,
                    own=True,
                    activation="relu6",
                    prefix=f"fpn_smooth{index}_",
                )
            )
        for index in range(COARSER):
            down.add(
                ConvNorm(
                    config,
                    width,
                    width,
                    3,
                    stride=2,
                    same=True,
                    size=sizes.maps[len(channels) - 1 + index],
                    own=True,
                    activation="relu6",
                    prefix=f"fpn_down{index}_",
                )
            )
        self.channels = [width] * (len(channels) + COARSER)
        self.children: Dict[str, HybridBlock] = dict(
            fpn_lateral=lateral, fpn_smooth=smooth, fpn_down=down
        )

    def maps(self, F, taps) -> List:
        lateral, smooth, down = self.children.values()
        inner = [layer(tap) for layer, tap in zip(lateral, taps)]
        for index in range(len(inner) - 1, 0, -1):
            inner[index - 1] = inner[index - 1] + enlarged(
                F,
                inner[index],
                self.layout,
                self._sizes[index],
                self._sizes[index - 1],
                self._dtype,
            )
        maps = [layer(part) for layer, part in zip(smooth, inner)]
        for layer in down:
            maps.append(layer(maps[-1]))
        return maps

    def reference_parameters(self) -> Dict[str, Parameter]:
        """The published program's name -> parameter."""
        found = {}
        for index, layer in enumerate(self.children["fpn_lateral"]):
            found[f"fpn.lateral.{index}.weight"], found[f"fpn.lateral.{index}.bias"] = (
                layer.weight,
                layer.bias,
            )
        for part in ("smooth", "down"):
            for index, layer in enumerate(self.children[f"fpn_{part}"]):
                found.update(norm_parameters(f"fpn.{part}.{index}", layer))
        return found


def enlarged(
    F, x, layout: str, size: Tuple[int, int], finer: Tuple[int, int], dtype: str = "float32"
):
    """A map of `size` (height, width) at the size `finer`, bilinear without half pixels and without
    aligned corners: cell i is sampled at i * old / new. So with twice the cells, even ones are
    copied, odd ones are the mean of two neighbours, and the last is repeated."""
    axes = (2, 3) if layout == "NCHW" else (1, 2)
    if finer == (2 * size[0], 2 * size[1]):
        x = twice(F, x, layout)
        for axis in axes:
            following = [F.slice_axis(x, axis=axis, begin=begin, end=None) for begin in (1, -1)]
            x = (x + F.concat(*following, dim=axis)) * 0.5
        return x
    for axis, old, new in zip(axes, size, finer):
        position = F.arange(0, new) * (old / new)
        low = F.floor(position)
        share = F.cast(
            F.reshape(position - low, tuple(-1 if other == axis else 1 for other in range(4))),
            dtype=dtype,
        )
        before, after = F.take(x, low, axis=axis), F.take(x, F.minimum(low + 1, old - 1), axis=axis)
        x = before + F.broadcast_mul(after - before, share)
    return x
