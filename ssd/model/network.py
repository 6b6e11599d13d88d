"""The network of a single-shot detector: backbone, feature maps, a head on each.

Structure from the PyTorch reference of MLPerf Training v1.1, ssd300.py.
"""

from __future__ import annotations

from typing import Callable, Dict, List, Tuple

import mxnet as mx
from mxnet.gluon import HybridBlock, Parameter

from ssd.config import Config
from ssd.errors import UserError
from ssd.model.initial import TruncatedNormal
from ssd.model.layers import input_channels

DEVIATION = 0.02  # of MindCV's first weights


class Network(HybridBlock):
    """Input: normalised images (B, 3, H, W), or (B, H, W, 3 or 4) with NHWC. Output: encoded
    offsets (B, N, 4) in units of the variances, cxcywh, and class logits (B, N, K): of all classes,
    background first, or of all but that (see ssd.model.heads); N default boxes in the order of
    `default_boxes`.
    """

    def __init__(
        self,
        config: Config,
        sizes,
        backbone: Callable,
        features: Callable,
        heads: Callable,
        **kwargs,
    ):
        """sizes: of ssd.model.boxes.box_rules. backbone, features, heads: functions that build
        these parts, see ssd.model.detector."""
        # A fixed prefix: Gluon counts instances, but the names of the tensors are part of the
        # benchmark's rules.
        super().__init__(prefix=kwargs.pop("prefix", "ssd0_"), **kwargs)
        model = config.model
        self.image_size, self.layout, self._initial = model.image_size, model.layout, model.initial
        self.input_channels = input_channels(model)
        with self.name_scope():
            self.backbone = backbone(model)
            self._features = features(model, self.backbone.channels, sizes)
            for name, block in self._features.children.items():
                setattr(self, name, block)
            if len(self._features.channels) != len(sizes.maps):
                raise UserError(
                    f"features {model.features}: {len(self._features.channels)} feature maps, "
                    f"where the rule of the default boxes, {config.default_boxes.rule}, has "
                    f"{len(sizes.maps)}"
                )
            self.predictors = heads(model, self._features.channels, sizes.per_cell)

    def feature_maps(self, F, images) -> List:
        """The feature maps that the heads work on, from fine to coarse."""
        return self._features.maps(F, self.backbone.maps(F, images))

    def hybrid_forward(self, F, images):
        offsets, logits = zip(*self.predictors.predict(self.feature_maps(F, images)))
        return F.concat(*offsets, dim=1), F.concat(*logits, dim=1)

    def input_shape(self, batch_size: int) -> Tuple[int, int, int, int]:
        height, width = self.image_size
        channels = self.input_channels
        return (
            (batch_size, channels, height, width)
            if self.layout == "NCHW"
            else (batch_size, height, width, channels)
        )

    def initial(self) -> Dict[str, object]:
        """How those parameters are drawn (ssd.model.initial) that do not follow the default of
        their kind of layer, by name."""
        kinds = {}
        if self._initial == "truncated_normal":
            own = self.collect_params().keys() - self.backbone.collect_params().keys()
            kinds = {name: TruncatedNormal(DEVIATION) for name in own if name.endswith("_weight")}
        for part in (self._features, self.predictors):
            kinds.update(part.initial() if hasattr(part, "initial") else {})
        return kinds

    def reference_parameters(self) -> Dict[str, Parameter]:
        """Name in the published network of the same structure -> parameter, in that network's
        order. For RetinaNet it is the PyTorch reference of MLPerf Training v2.0 to v5.1. UserError
        for a network of which no published one is known."""
        if not all(
            hasattr(part, "reference_parameters") for part in (self._features, self.predictors)
        ):
            raise UserError(
                "no published network of this structure is known to name the parameters after"
            )
        return {
            **{
                f"{self.predictors.reference_backbone}{name}": parameter
                for name, parameter in self.backbone.torchvision_parameters().items()
            },
            **self._features.reference_parameters(),
            **self.predictors.reference_parameters(),
        }

    def feature_sizes(self) -> List[Tuple[int, int]]:
        """(height, width) of each feature map, inferred from the graph without running it."""
        maps = self.feature_maps(mx.sym, mx.sym.var("images"))
        try:
            _, shapes, _ = mx.sym.Group(maps).infer_shape(images=self.input_shape(1))
        except mx.MXNetError:
            raise UserError(
                f"image_size {self.image_size}: too small for {len(maps)} feature maps"
            ) from None
        axis = 2 if self.layout == "NCHW" else 1
        return [tuple(shape[axis : axis + 2]) for shape in shapes]
