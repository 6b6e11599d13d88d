"""Heads for MobileNets: a depthwise 3x3 and a 1x1 convolution on each map, for offsets and for
logits.

SSDLite (Sandler et al., 2018) as uvipen/SSD-pytorch and MindCV have it.
"""

from __future__ import annotations

from typing import Dict, List

from mxnet.gluon import HybridBlock, Parameter, nn

from ssd.config import ModelConfig
from ssd.model.conv_norm import ConvNorm, norm_parameters
from ssd.model.layers import PaddedConv2D, box_rows, convolution


class Branch(HybridBlock):
    """(B, C, H, W) or (B, H, W, C) to (B, H * W * boxes, values); channel = box * values +
    value."""

    def __init__(self, config: ModelConfig, channels: int, boxes: int, values: int, **kwargs):
        super().__init__(**kwargs)
        self.layout, self.values, self._used = config.layout, values, boxes * values
        with self.name_scope():
            self.depthwise = ConvNorm(
                config,
                channels,
                channels,
                3,
                depthwise=True,
                bias=config.head_depthwise_bias,
                own=True,
                activation="relu6",
            )
            self.out = convolution(
                config, channels, self._used, 1, bias=True, prefix="out_", kind=PaddedConv2D
            )

    def hybrid_forward(self, F, x):
        return box_rows(F, self.out(self.depthwise(x)), self.layout, self._used, self.values)


class SeparableHead(HybridBlock):
    """Offsets and logits of one map, background included."""

    def __init__(self, config: ModelConfig, channels: int, boxes: int, **kwargs):
        super().__init__(**kwargs)
        self.boxes, self.classes = boxes, config.num_classes
        with self.name_scope():
            self.loc = Branch(config, channels, boxes, 4, prefix="loc_")
            self.conf = Branch(config, channels, boxes, self.classes, prefix="conf_")

    def hybrid_forward(self, F, x):
        return self.loc(x), self.conf(x)


class SeparableHeads(nn.HybridSequential):
    """A SeparableHead for each map, of `channels` and `per_cell` default boxes a cell."""

    reference_backbone = "backbone."  # before the backbone's names in reference_parameters

    def __init__(self, config: ModelConfig, channels: List[int], per_cell: List[int]):
        super().__init__(prefix="")
        for index, (width, boxes) in enumerate(zip(channels, per_cell)):
            self.add(SeparableHead(config, width, boxes, prefix=f"head{index}_"))

    def predict(self, maps) -> List:
        """(offsets, logits) of each map."""
        return [head(features) for head, features in zip(self, maps)]

    def reference_parameters(self) -> Dict[str, Parameter]:
        """The published program's name -> parameter; its channels may be in another order."""
        found = {}
        for index, head in enumerate(self):
            for name, branch in (("loc", head.loc), ("conf", head.conf)):
                found.update(norm_parameters(f"{name}.{index}.depthwise", branch.depthwise))
                found[f"{name}.{index}.out.weight"] = branch.out.weight
                found[f"{name}.{index}.out.bias"] = branch.out.bias
        return found
