"""RetinaNet's heads: one tower of convolutions for classes and one for boxes, which all feature
maps share.

From the PyTorch reference of MLPerf Training v2.0 to v5.1 (single_stage_detector/ssd/model:
RetinaNetHead).
"""

from __future__ import annotations

import math
from typing import Dict, List

from mxnet.gluon import HybridBlock, Parameter, nn

from ssd.config import ModelConfig
from ssd.errors import UserError
from ssd.model.initial import Constant, Normal
from ssd.model.layers import PaddedConv2D, convolution

DEVIATION = 0.01  # of the weights before training


class BlockedConv2D(nn.Conv2D):
    """As PaddedConv2D, but padded to the number of output channels for which oneDNN's AVX-512
    kernels are fast: blocks of 16 whose number 2 or 3 divides. RetinaNet's 2376 are computed as
    2400, in 0.6 of the time, forward and backward."""

    @property
    def computed(self) -> int:
        """Output channels, padding included."""
        blocks = -(-self._channels // 16)
        while blocks > 1 and blocks % 2 and blocks % 3:
            blocks += 1
        return 16 * blocks

    def hybrid_forward(self, F, x, weight, bias):
        extra = self.computed - self._channels
        if extra:

            def padded(array):
                return F.concat(
                    array, F.zeros_like(F.slice_axis(array, axis=0, begin=0, end=extra)), dim=0
                )

            weight, bias = padded(weight), padded(bias)
        return F.Convolution(
            x, weight, bias, name="fwd", **dict(self._kwargs, num_filter=self.computed)
        )


class Tower(HybridBlock):
    """Convolutions with ReLU, and a last one of `values` channels per box, channel = box * values +
    value."""

    def __init__(self, config: ModelConfig, channels: int, boxes: int, values: int, **kwargs):
        super().__init__(**kwargs)
        self.layout, self.values, self._used = config.layout, values, boxes * values
        with self.name_scope():
            self.conv = nn.HybridSequential(prefix="")
            for index in range(config.tower_convolutions):
                self.conv.add(
                    convolution(
                        config, channels, channels, 3, pad=1, bias=True, prefix=f"conv{index}_"
                    )
                )
            # NHWC runs on GPUs, which do not need the larger blocks.
            kind = BlockedConv2D if self.layout == "NCHW" else PaddedConv2D
            self.out = convolution(
                config, channels, self._used, 3, pad=1, bias=True, prefix="out_", kind=kind
            )
        self._padded = (
            self.out.computed > self._used if self.layout == "NCHW" else self._used % 8 > 0
        )

    def hybrid_forward(self, F, x):
        """(B, C, H, W) or (B, H, W, C) to (B, H * W * boxes, values)."""
        for layer in self.conv:
            x = F.Activation(layer(x), act_type="relu")
        x = self.out(x)
        if self.layout == "NCHW":
            x = F.transpose(x, (0, 2, 3, 1))
        if self._padded:
            x = F.slice_axis(x, axis=3, begin=0, end=self._used)
        return F.reshape(x, (0, -1, self.values))


class SharedHead(HybridBlock):
    """Offsets and class logits of any map of `channels`; one logit per class, none for the
    background.

    boxes: default boxes per cell. classes: with the background, as of every head.
    """

    reference_backbone = "backbone.body."  # before the backbone's names in reference_parameters

    def __init__(self, config: ModelConfig, channels: List[int], per_cell: List[int], **kwargs):
        super().__init__(prefix=kwargs.pop("prefix", "head_"), **kwargs)
        if len(set(channels)) > 1 or len(set(per_cell)) > 1:
            raise UserError(
                f"head shared: the feature maps have {channels} channels and {per_cell} default "
                "boxes a cell, but all must be equal"
            )
        self.boxes, self.classes, self._prior = per_cell[0], config.num_classes, config.prior
        with self.name_scope():
            self.classification = Tower(
                config, channels[0], self.boxes, self.classes - 1, prefix="classification_"
            )
            self.regression = Tower(config, channels[0], self.boxes, 4, prefix="regression_")

    def hybrid_forward(self, F, x):
        return self.regression(x), self.classification(x)

    def predict(self, maps) -> List:
        """(offsets, logits) of each map."""
        return [self(features) for features in maps]

    def initial(self) -> Dict[str, object]:
        """How parameters are drawn, by their names: weights normal, biases 0, except for the prior
        of the classes."""
        kinds = {
            name: Normal(DEVIATION) if name.endswith("_weight") else Constant(0.0)
            for name in self.collect_params()
        }
        # The logit of the prior.
        kinds[self.classification.out.bias.name] = Constant(
            -math.log((1 - self._prior) / self._prior)
        )
        return kinds

    def reference_parameters(self) -> Dict[str, Parameter]:
        """The reference's name -> parameter."""
        found = {}
        for name, tower, last in (
            ("classification_head", self.classification, "cls_logits"),
            ("regression_head", self.regression, "bbox_reg"),
        ):
            layers = [(f"conv.{2 * index}", layer) for index, layer in enumerate(tower.conv)] + [
                (last, tower.out)
            ]
            for part, layer in layers:
                found[f"head.{name}.{part}.weight"] = layer.weight
                found[f"head.{name}.{part}.bias"] = layer.bias
        return found
