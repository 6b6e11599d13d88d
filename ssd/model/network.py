"""The network of a single-shot detector: backbone, feature maps, a head on each.

Structure from the PyTorch reference of MLPerf Training v1.1, ssd300.py.
"""
from __future__ import annotations

from typing import Callable, List, Tuple

import mxnet as mx
from mxnet.gluon import HybridBlock, nn

from ssd.config import Config
from ssd.errors import UserError
from ssd.model.boxes.ssd_sizes import Sizes
from ssd.model.layers import input_channels


class Network(HybridBlock):
    """Input: normalised images (B, 3, H, W), or (B, H, W, 3 or 4) with NHWC. Output: encoded offsets (B, N, 4) in
    units of the variances, cxcywh, and class logits (B, N, classes), background first; N default boxes in the
    order of `default_boxes`.
    """

    def __init__(self, config: Config, sizes: Sizes, backbone: Callable, features: Callable, head: Callable, **kwargs):
        """backbone, features, head: make those parts, see ssd.model.detector."""
        # A fixed prefix: Gluon counts instances, but the names of the tensors are part of the benchmark's rules.
        super().__init__(prefix=kwargs.pop("prefix", "ssd0_"), **kwargs)
        model = config.model
        self.image_size, self.layout = model.image_size, model.layout
        self.input_channels = input_channels(model)
        with self.name_scope():
            self.backbone = backbone(model)
            self._features = features(model, self.backbone.channels, sizes)
            for name, block in self._features.children.items():
                setattr(self, name, block)
            self.predictors = nn.HybridSequential(prefix="")
            for index, (width, boxes) in enumerate(zip(self._features.channels, sizes.per_cell)):
                self.predictors.add(head(model, width, boxes, prefix=f"convpredictor{index}_"))

    def feature_maps(self, F, images) -> List:
        """The feature maps that the heads look at, from fine to coarse."""
        return self._features.maps(F, self.backbone.maps(F, images))

    def hybrid_forward(self, F, images):
        pairs = [head(features) for head, features in zip(self.predictors, self.feature_maps(F, images))]
        offsets, logits = zip(*pairs)
        return F.concat(*offsets, dim=1), F.concat(*logits, dim=1)

    def input_shape(self, batch_size: int) -> Tuple[int, int, int, int]:
        height, width = self.image_size
        channels = self.input_channels
        return (batch_size, channels, height, width) if self.layout == "NCHW" else (batch_size, height, width, channels)

    def feature_sizes(self) -> List[Tuple[int, int]]:
        """(height, width) of each feature map, inferred from the graph without running it."""
        maps = self.feature_maps(mx.sym, mx.sym.var("images"))
        try:
            _, shapes, _ = mx.sym.Group(maps).infer_shape(images=self.input_shape(1))
        except mx.MXNetError:
            raise UserError(f"image_size {self.image_size}: too small for {len(maps)} feature maps") from None
        axis = 2 if self.layout == "NCHW" else 1
        return [tuple(shape[axis:axis + 2]) for shape in shapes]
