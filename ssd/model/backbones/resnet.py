"""ResNets as a detector's backbone: what ssd.model.backbones.resnet_specs describes."""

from __future__ import annotations

from typing import Dict, List

from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.parameter import Parameter

from ssd.config import ModelConfig
from ssd.errors import UserError
from ssd.model.backbones import resnet_specs
from ssd.model.backbones.resnet_specs import Block, ResNetSpec
from ssd.model.conv_norm import pad_end, same_padding
from ssd.model.layers import convolution_and_norm, input_channels, normalised, scaled
from ssd.model_sections import PYRAMIDS


class ResidualBlock(HybridBlock):
    """Convolutions, each with BatchNorm, and a shortcut, which has a 1x1 convolution where the
    shape changes."""

    def __init__(self, config: ModelConfig, block: Block, frozen: bool, **kwargs):
        super().__init__(**kwargs)
        self._spec = block
        with self.name_scope():
            for layer in block.convolutions:
                convolved, norm = _convolution(config, layer, frozen)
                setattr(self, layer.name, convolved)
                setattr(self, layer.norm, norm)
            self.downsample = self.downsample_bn = None
            if block.shortcut:
                self.downsample, self.downsample_bn = _convolution(config, block.shortcut, frozen)

    def hybrid_forward(self, F, x):
        shortcut = (
            x if self.downsample is None else normalised(self.downsample, self.downsample_bn, x)
        )
        *first, last = self._spec.convolutions
        for layer in first:
            x = F.Activation(
                normalised(getattr(self, layer.name), getattr(self, layer.norm), x), act_type="relu"
            )
        return F.Activation(
            normalised(getattr(self, last.name), getattr(self, last.norm), x) + shortcut,
            act_type="relu",
        )

    def torchvision_layers(self) -> Dict[str, HybridBlock]:
        layers = {
            name: getattr(self, name)
            for layer in self._spec.convolutions
            for name in (layer.name, layer.norm)
        }
        if self.downsample is not None:
            layers.update({"downsample.0": self.downsample, "downsample.1": self.downsample_bn})
        return layers


def _convolution(config: ModelConfig, layer: resnet_specs.Convolution, frozen: bool):
    return convolution_and_norm(
        config,
        layer.in_channels,
        layer.channels,
        layer.kernel,
        stride=layer.stride,
        pad=layer.kernel // 2,
        groups=layer.groups,
        frozen=frozen,
    )


class ResNet(HybridBlock):
    """Images (B, 3 or 4, H, W), or (B, H, W, 4) with NHWC, to the maps of the stages that `spec`
    taps, their sides rounded up at each halving; `channels`: of each map.

    The prefix, and with it the names of ResNet-34's parameters, are what the compliance checker's
    rule set expects. Frozen stages change neither weights nor BatchNorm statistics, and no gradient
    passes through them.
    """

    def __init__(self, config: ModelConfig, spec: ResNetSpec):
        super().__init__(prefix=spec.prefix)
        kept, self._taps = spec.kept, spec.taps
        if config.frozen_stages > 1 + len(kept):
            raise UserError(
                f"frozen_stages: {config.frozen_stages}, but {spec.name} has the stem and "
                f"{len(kept)} stages"
            )
        self.layout = config.layout
        width = scaled(resnet_specs.STEM_CHANNELS, config)
        with self.name_scope():
            self.conv1, self.bn1 = convolution_and_norm(
                config,
                input_channels(config),
                width,
                7,
                stride=2,
                pad=3,
                frozen=config.frozen_stages > 0,
            )
            # MindCV's pyramid pads as TensorFlow does. Padding with zeros is right, as the pooled
            # values are not negative.
            pads = (
                [same_padding(-(-side // 2), 3, 2) for side in config.image_size]
                if config.features == "norm_pyramid"
                else [(1, 1)] * 2
            )
            self._pad_end = tuple(after - before for before, after in pads)
            self.maxpool = nn.MaxPool2D(
                3, 2, tuple(before for before, _ in pads), layout=config.layout
            )
            self.stages = nn.HybridSequential(prefix="")
            for number in range(1, len(kept) + 1):
                self.stages.add(nn.HybridSequential(prefix=f"stage{number}_"))
            for number, block in resnet_specs.residual_blocks(
                spec, kept, lambda channels: scaled(channels, config)
            ):
                stage = self.stages[number - 1]
                with stage.name_scope():
                    stage.add(
                        ResidualBlock(config, block, config.frozen_stages > number, prefix="")
                    )
        self.channels = [scaled(kept[number - 1].channels, config) for number in spec.taps]
        self._frozen_stages = config.frozen_stages
        frozen = [self.conv1, self.bn1][: 2 * bool(config.frozen_stages)] + [
            self.stages[number] for number in range(max(0, config.frozen_stages - 1))
        ]
        for part in frozen:
            part.collect_params().setattr("grad_req", "null")

    def hybrid_forward(self, F, x):
        x = F.Activation(normalised(self.conv1, self.bn1, x), act_type="relu")
        x = self.maxpool(pad_end(F, x, self._pad_end, self.layout))
        maps = []
        for number, stage in enumerate(self.stages, start=1):
            # All layers before are frozen: their backward pass would take time for nothing.
            x = stage(F.BlockGrad(x) if number == self._frozen_stages else x)
            if number in self._taps:
                maps.append(x)
        return maps if len(maps) > 1 else maps[0]

    def maps(self, F, images) -> List:
        """The feature maps that the detector works on, from fine to coarse."""
        maps = self(images)
        return list(maps) if isinstance(maps, (list, tuple)) else [maps]

    def torchvision_parameters(self) -> Dict[str, Parameter]:
        """torchvision's tensor name -> parameter. Shapes agree except for NHWC (OIHW in
        torchvision, OHWI here) and a padded input channel."""
        layers = {"conv1": self.conv1, "bn1": self.bn1}
        for number, stage in enumerate(self.stages, start=1):
            for index, block in enumerate(stage):
                layers.update(
                    {
                        f"layer{number}.{index}.{name}": layer
                        for name, layer in block.torchvision_layers().items()
                    }
                )
        result = {}
        for name, layer in layers.items():
            if isinstance(layer, nn.BatchNorm):
                result.update(
                    {
                        f"{name}.weight": layer.gamma,
                        f"{name}.bias": layer.beta,
                        f"{name}.running_mean": layer.running_mean,
                        f"{name}.running_var": layer.running_var,
                    }
                )
            else:
                result[f"{name}.weight"] = layer.weight
        return result


def resnet(config: ModelConfig) -> ResNet:
    """The ResNet that model.backbone names, with the stages that model.features needs."""
    return ResNet(config, resnet_specs.spec_of(config.backbone, config.features in PYRAMIDS))
