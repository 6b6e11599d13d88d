"""MindCV's shared heads: towers whose convolutions all feature maps share, while each map has
BatchNorms of its own."""

from __future__ import annotations

from typing import Dict, List

from mxnet.gluon import HybridBlock, Parameter, nn

from ssd.config import ModelConfig
from ssd.errors import UserError
from ssd.model.conv_norm import ACTIVATIONS, own_batch_norm
from ssd.model.layers import PaddedConv2D, box_rows, convolution


class NormTower(HybridBlock):
    """Convolutions with bias, BatchNorm and ReLU6, and a last one of `values` channels per box,
    channel = box * values + value. Each level, a feature map, has its own BatchNorms."""

    def __init__(
        self, config: ModelConfig, channels: int, boxes: int, values: int, levels: int, **kwargs
    ):
        super().__init__(**kwargs)
        self.layout, self.values, self._used = config.layout, values, boxes * values
        with self.name_scope():
            self.conv, self.norms = nn.HybridSequential(prefix=""), nn.HybridSequential(prefix="")
            for index in range(config.tower_convolutions):
                self.conv.add(
                    convolution(
                        config, channels, channels, 3, pad=1, bias=True, prefix=f"conv{index}_"
                    )
                )
                own = nn.HybridSequential(prefix="")
                for level in range(levels):
                    own.add(own_batch_norm(config, channels, prefix=f"norm{index}_level{level}_"))
                self.norms.add(own)
            self.out = convolution(
                config, channels, self._used, 3, pad=1, bias=True, prefix="out_", kind=PaddedConv2D
            )

    def at_level(self, F, x, level: int):
        """(B, C, H, W) or (B, H, W, C) to (B, H * W * boxes, values)."""
        for layer, norms in zip(self.conv, self.norms):
            x = ACTIVATIONS["relu6"](F, norms[level](layer(x)))
        return box_rows(F, self.out(x), self.layout, self._used, self.values)


class NormSharedHead(HybridBlock):
    """Offsets and logits of any of the maps, background included."""

    reference_backbone = "backbone."  # before the backbone's names in reference_parameters

    def __init__(self, config: ModelConfig, channels: List[int], per_cell: List[int]):
        super().__init__(prefix="head_")
        if len(set(channels)) > 1 or len(set(per_cell)) > 1:
            raise UserError(
                f"head shared_norm: the feature maps have {channels} channels and {per_cell} "
                "default boxes a cell, but all must be equal"
            )
        self.boxes, self.classes = per_cell[0], config.num_classes
        with self.name_scope():
            self.loc = NormTower(config, channels[0], self.boxes, 4, len(channels), prefix="loc_")
            self.conf = NormTower(
                config, channels[0], self.boxes, self.classes, len(channels), prefix="conf_"
            )

    def hybrid_forward(self, F, *maps):
        return [
            part
            for level, x in enumerate(maps)
            for part in (self.loc.at_level(F, x, level), self.conf.at_level(F, x, level))
        ]

    def predict(self, maps) -> List:
        """(offsets, logits) of each map."""
        parts = self(*maps)
        return list(zip(parts[::2], parts[1::2]))

    def reference_parameters(self) -> Dict[str, Parameter]:
        """The published program's name -> parameter."""
        found = {}
        for name, tower in (("loc", self.loc), ("conf", self.conf)):
            for index, (layer, norms) in enumerate(zip(tower.conv, tower.norms)):
                found[f"{name}.tower.{index}.conv.weight"] = layer.weight
                found[f"{name}.tower.{index}.conv.bias"] = layer.bias
                for level, norm in enumerate(norms):
                    part = f"{name}.tower.{index}.level{level}.bn"
                    found.update(
                        {
                            f"{part}.weight": norm.gamma,
                            f"{part}.bias": norm.beta,
                            f"{part}.running_mean": norm.running_mean,
                            f"{part}.running_var": norm.running_var,
                        }
                    )
            found[f"{name}.out.weight"], found[f"{name}.out.bias"] = (
                tower.out.weight,
                tower.out.bias,
            )
        return found
