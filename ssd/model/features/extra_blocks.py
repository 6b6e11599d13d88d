"""Extra feature maps behind the backbone's last one: each a 1x1 and a 3x3 convolution.

Plain, with bias: the PyTorch reference of MLPerf Training v1.1, ssd300.py. With BatchNorm after
each convolution and without bias: uvipen/SSD-pytorch.
"""

from __future__ import annotations

from typing import Dict, List

from mxnet.gluon import HybridBlock, nn

from ssd.config import ModelConfig
from ssd.model.boxes.ssd_sizes import SsdSizes
from ssd.model.layers import convolution, convolution_and_norm, normalised, scaled


class ExtraBlocks:
    """`maps(F, taps)`: the backbone's maps and one more per block. This is no Gluon block:
    `children` become children of the network, so that the names of the benchmark's tensors and of
    existing weight files stay.

    channels: of every map. children: attribute of the network -> block.
    """

    def __init__(
        self, config: ModelConfig, channels: List[int], sizes: SsdSizes, norm: bool = False
    ):
        """To be built within the network's name scope. norm: BatchNorm after each convolution."""
        self.channels = list(channels)
        reduce, expand, reduce_norms, expand_norms = (
            nn.HybridSequential(prefix="") for _ in range(4)
        )

        def add(convolutions, norms, prefixes, *shape, **kwargs):
            if not norm:
                convolutions.add(
                    convolution(config, *shape, bias=True, prefix=prefixes[0], **kwargs)
                )
                return
            for part, layer in zip(
                (convolutions, norms),
                convolution_and_norm(config, *shape, prefixes=prefixes, **kwargs),
            ):
                part.add(layer)

        for index, ((middle, out), stride, pad) in enumerate(
            zip(sizes.channels, sizes.strides, sizes.pads)
        ):
            middle, out = scaled(middle, config), scaled(out, config)
            add(
                reduce,
                reduce_norms,
                (f"expand_trans_conv{index}_", f"expand_trans_batchnorm{index}_"),
                self.channels[-1],
                middle,
                1,
            )
            add(
                expand,
                expand_norms,
                (f"expand_conv{index}_", f"expand_batchnorm{index}_"),
                middle,
                out,
                3,
                stride=stride,
                pad=pad,
            )
            self.channels.append(out)
        self.children: Dict[str, HybridBlock] = dict(expand_trans_convs=reduce, expand_convs=expand)
        if norm:
            self.children.update(expand_trans_norms=reduce_norms, expand_norms=expand_norms)
        self._layers = list(
            zip(
                reduce,
                reduce_norms if norm else [None] * len(reduce),
                expand,
                expand_norms if norm else [None] * len(expand),
            )
        )

    def maps(self, F, taps) -> List:
        maps = list(taps)
        for reduce, reduce_norm, expand, expand_norm in self._layers:
            x = maps[-1]
            for convolved, norm in ((reduce, reduce_norm), (expand, expand_norm)):
                x = F.Activation(
                    convolved(x) if norm is None else normalised(convolved, norm, x),
                    act_type="relu",
                )
            maps.append(x)
        return maps


def plain_blocks(config: ModelConfig, channels: List[int], sizes: SsdSizes) -> ExtraBlocks:
    return ExtraBlocks(config, channels, sizes)


def batch_norm_blocks(config: ModelConfig, channels: List[int], sizes: SsdSizes) -> ExtraBlocks:
    return ExtraBlocks(config, channels, sizes, norm=True)
