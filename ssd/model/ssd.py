"""SSD: backbone, extra feature maps, fused heads.

Structure from the PyTorch reference of MLPerf Training v1.1, ssd300.py; the fusing of each map's offset and
class convolutions into one follows the MXNet submissions of v1.1 and changes no result.
"""
from __future__ import annotations

from typing import List, Tuple

import mxnet as mx
from mxnet.gluon import HybridBlock, nn

from ssd.config import Config, ModelConfig
from ssd.errors import UserError
from ssd.model.default_boxes import boxes_per_cell
from ssd.model.layers import PaddedConv2D, convolution, input_channels, scaled
from ssd.model.resnet import ResNet34

BACKBONES = {"resnet34": (ResNet34, "resnetmlperf0_")}


class ConvPredictor(HybridBlock):
    """The fused head of one feature map: offsets and class logits of the `boxes` default boxes of each cell.

    The convolution's channels are offsets (shape, coordinate), logits (shape, class), then unused ones up to a
    multiple of 8: part of the weights in NHWC, for tensor cores, and made on the way in NCHW (PaddedConv2D).
    """

    def __init__(self, config: ModelConfig, in_channels: int, boxes: int, **kwargs):
        super().__init__(**kwargs)
        self.layout, self.boxes, self.classes = config.layout, boxes, config.num_classes
        used = boxes * (4 + config.num_classes)
        with self.name_scope():
            self.conv = convolution(config, in_channels, -(-used // 8) * 8 if config.layout == "NHWC" else used,
                                    3, pad=1, bias=True, prefix="conv0_", kind=PaddedConv2D)

    def hybrid_forward(self, F, x):
        """(B, C, H, W) or (B, H, W, C) to offsets (B, H * W * boxes, 4), logits (B, H * W * boxes, classes)."""
        x = self.conv(x)
        if self.layout == "NCHW":
            x = F.transpose(x, (0, 2, 3, 1))
        middle, end = self.boxes * 4, self.boxes * (4 + self.classes)
        offsets = F.reshape(F.slice_axis(x, axis=3, begin=0, end=middle), (0, -1, 4))
        logits = F.reshape(F.slice_axis(x, axis=3, begin=middle, end=end), (0, -1, self.classes))
        return offsets, logits


class SSD(HybridBlock):
    """The detector.

    Input: normalised images (B, 3, S, S), or (B, S, S, 3 or 4) with NHWC. Output: encoded offsets (B, N, 4) in
    units of the variances, cxcywh, and class logits (B, N, classes), background first; N default boxes in the
    order of `default_boxes`.
    """

    def __init__(self, config: Config, **kwargs):
        # A fixed prefix: Gluon counts instances, but the names of the tensors are part of the benchmark's rules.
        super().__init__(prefix=kwargs.pop("prefix", "ssd0_"), **kwargs)
        model = config.model
        self.image_size, self.layout = model.image_size, model.layout
        self.input_channels = input_channels(model)
        with self.name_scope():
            backbone, prefix = BACKBONES[model.backbone]
            self.backbone = backbone(model, prefix=prefix)
            channels = [self.backbone.out_channels]
            self.expand_trans_convs = nn.HybridSequential(prefix="")
            self.expand_convs = nn.HybridSequential(prefix="")
            for index, ((middle, out), stride, pad) in enumerate(
                    zip(model.extra_channels, model.extra_strides, model.extra_pads)):
                middle, out = scaled(middle, model), scaled(out, model)
                self.expand_trans_convs.add(convolution(model, channels[-1], middle, 1, bias=True,
                                                        prefix=f"expand_trans_conv{index}_"))
                self.expand_convs.add(convolution(model, middle, out, 3, stride=stride, pad=pad, bias=True,
                                                  prefix=f"expand_conv{index}_"))
                channels.append(out)
            self.predictors = nn.HybridSequential(prefix="")
            for index, (width, boxes) in enumerate(zip(channels, boxes_per_cell(config.default_boxes))):
                self.predictors.add(ConvPredictor(model, width, boxes, prefix=f"convpredictor{index}_"))

    def feature_maps(self, F, images) -> List:
        """The feature maps that the heads look at, from fine to coarse."""
        maps = [self.backbone(images)]
        for reduce, expand in zip(self.expand_trans_convs, self.expand_convs):
            x = F.Activation(reduce(maps[-1]), act_type="relu")
            maps.append(F.Activation(expand(x), act_type="relu"))
        return maps

    def hybrid_forward(self, F, images):
        pairs = [head(features) for head, features in zip(self.predictors, self.feature_maps(F, images))]
        offsets, logits = zip(*pairs)
        return F.concat(*offsets, dim=1), F.concat(*logits, dim=1)

    def input_shape(self, batch_size: int) -> Tuple[int, int, int, int]:
        size, channels = self.image_size, self.input_channels
        return (batch_size, channels, size, size) if self.layout == "NCHW" else (batch_size, size, size, channels)

    def feature_sizes(self) -> List[Tuple[int, int]]:
        """(height, width) of each feature map, inferred from the graph without running it."""
        maps = self.feature_maps(mx.sym, mx.sym.var("images"))
        try:
            _, shapes, _ = mx.sym.Group(maps).infer_shape(images=self.input_shape(1))
        except mx.MXNetError:
            raise UserError(f"image_size {self.image_size}: too small for {len(maps)} feature maps") from None
        axis = 2 if self.layout == "NCHW" else 1
        return [tuple(shape[axis:axis + 2]) for shape in shapes]


def build_model(config: Config) -> SSD:
    """The detector of a recipe, not yet initialised; cast to the recipe's dtype. UserError where the number of classes
    is still to be counted."""
    if not config.model.num_classes:
        raise UserError("num_classes is 0, to be counted from a data set, and there is none here: name --num-classes")
    network = SSD(config)
    network.cast(config.model.dtype)
    return network
