"""ResNet-34 as SSD's backbone: up to layer3, which keeps layer2's resolution.

Structure: torchvision's ResNet-34 (He et al., 2015, the 34-layer column of table 1), cut after layer3, with
layer3's first block at stride 1, as in the PyTorch reference of MLPerf Training v1.1 (base_model.py).
"""
from __future__ import annotations

from typing import Dict, Iterator, Tuple

from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.parameter import Parameter

from ssd.config import ModelConfig
from ssd.model.layers import batch_norm, convolution, input_channels, scaled

STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 1))    # blocks, channels, stride of the first block
STEM_CHANNELS = 64


class BasicBlock(HybridBlock):
    """Two 3x3 convolutions and a shortcut, with a 1x1 convolution in it where the shape changes."""

    def __init__(self, config: ModelConfig, in_channels: int, channels: int, stride: int, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.conv1 = convolution(config, in_channels, channels, 3, stride=stride, pad=1)
            self.bn1 = batch_norm(config, channels)
            self.conv2 = convolution(config, channels, channels, 3, pad=1)
            self.bn2 = batch_norm(config, channels)
            self.downsample = self.downsample_bn = None
            if stride != 1 or in_channels != channels:
                self.downsample = convolution(config, in_channels, channels, 1, stride=stride)
                self.downsample_bn = batch_norm(config, channels)

    def hybrid_forward(self, F, x):
        shortcut = x if self.downsample is None else self.downsample_bn(self.downsample(x))
        x = F.Activation(self.bn1(self.conv1(x)), act_type="relu")
        return F.Activation(self.bn2(self.conv2(x)) + shortcut, act_type="relu")

    def torchvision_layers(self) -> Iterator[Tuple[str, HybridBlock]]:
        yield from (("conv1", self.conv1), ("bn1", self.bn1), ("conv2", self.conv2), ("bn2", self.bn2))
        if self.downsample is not None:
            yield from (("downsample.0", self.downsample), ("downsample.1", self.downsample_bn))


class ResNet34(HybridBlock):
    """Images (B, 3 or 4, H, W), or (B, H, W, 4) with NHWC, to features of an eighth of the side, 256 * width
    channels.

    The prefix, and through it the parameters' names, are those that the compliance checker's rule set expects.
    """

    def __init__(self, config: ModelConfig, **kwargs):
        super().__init__(**kwargs)
        self.layout = config.layout
        channels = scaled(STEM_CHANNELS, config)
        with self.name_scope():
            self.conv1 = convolution(config, input_channels(config), channels, 7, stride=2, pad=3)
            self.bn1 = batch_norm(config, channels)
            self.maxpool = nn.MaxPool2D(3, 2, 1, layout=config.layout)
            self.stages = nn.HybridSequential(prefix="")
            for number, (blocks, width, stride) in enumerate(STAGES, start=1):
                stage = nn.HybridSequential(prefix=f"stage{number}_")
                with stage.name_scope():
                    for block in range(blocks):
                        stage.add(BasicBlock(config, channels, scaled(width, config), stride if block == 0 else 1,
                                             prefix=""))
                        channels = scaled(width, config)
                self.stages.add(stage)
        self.out_channels = channels

    def hybrid_forward(self, F, x):
        x = self.maxpool(F.Activation(self.bn1(self.conv1(x)), act_type="relu"))
        return self.stages(x)

    def torchvision_parameters(self) -> Dict[str, Parameter]:
        """torchvision's tensor name -> parameter. Shapes agree but for NHWC (OIHW there, OHWI here) and a padded
        input channel."""
        layers = [("conv1", self.conv1), ("bn1", self.bn1)]
        for number, stage in enumerate(self.stages, start=1):
            for index, block in enumerate(stage):
                layers += [(f"layer{number}.{index}.{name}", layer) for name, layer in block.torchvision_layers()]
        result = {}
        for name, layer in layers:
            if isinstance(layer, nn.BatchNorm):
                result.update({f"{name}.weight": layer.gamma, f"{name}.bias": layer.beta,
                               f"{name}.running_mean": layer.running_mean, f"{name}.running_var": layer.running_var})
            else:
                result[f"{name}.weight"] = layer.weight
        return result
