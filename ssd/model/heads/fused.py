"""One convolution per map for offsets and class logits together.

Fusing each map's two convolutions into one follows the MXNet submissions of MLPerf Training v1.1
and changes no result.
"""

from __future__ import annotations

from typing import List

from mxnet.gluon import HybridBlock, nn

from ssd.config import ModelConfig
from ssd.model.layers import PaddedConv2D, convolution


class FusedHead(HybridBlock):
    """The head of one feature map: offsets and class logits of the `boxes` default boxes of each
    cell.

    The convolution's channels are offsets (shape, coordinate), logits (shape, class), then unused
    ones up to a multiple of 8: in NHWC, for tensor cores, they are part of the weights; in NCHW
    PaddedConv2D adds them.
    """

    def __init__(self, config: ModelConfig, in_channels: int, boxes: int, **kwargs):
        super().__init__(**kwargs)
        self.layout, self.boxes, self.classes = config.layout, boxes, config.num_classes
        used = boxes * (4 + config.num_classes)
        with self.name_scope():
            self.conv = convolution(
                config,
                in_channels,
                -(-used // 8) * 8 if config.layout == "NHWC" else used,
                config.head_kernel,
                pad=config.head_kernel // 2,
                bias=True,
                prefix="conv0_",
                kind=PaddedConv2D,
            )

    def hybrid_forward(self, F, x):
        """(B, C, H, W) or (B, H, W, C) to offsets (B, H * W * boxes, 4), logits (B, H * W * boxes,
        classes)."""
        x = self.conv(x)
        if self.layout == "NCHW":
            x = F.transpose(x, (0, 2, 3, 1))
        middle, end = self.boxes * 4, self.boxes * (4 + self.classes)
        offsets = F.reshape(F.slice_axis(x, axis=3, begin=0, end=middle), (0, -1, 4))
        logits = F.reshape(F.slice_axis(x, axis=3, begin=middle, end=end), (0, -1, self.classes))
        return offsets, logits


class FusedHeads(nn.HybridSequential):
    """A FusedHead for each map, of `channels` and `per_cell` default boxes a cell."""

    def __init__(self, config: ModelConfig, channels: List[int], per_cell: List[int]):
        super().__init__(prefix="")
        for index, (width, boxes) in enumerate(zip(channels, per_cell)):
            self.add(FusedHead(config, width, boxes, prefix=f"convpredictor{index}_"))

    def predict(self, maps) -> List:
        """(offsets, logits) of each map."""
        return [head(features) for head, features in zip(self, maps)]
