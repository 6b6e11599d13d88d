"""torchvision's ResNet-34 in plain torch.nn (its tensor names and order of operations), with random
weights.

The other side of the backbone's tests. Needs PyTorch: import it behind
pytest.importorskip("torch").
"""

from __future__ import annotations

from typing import Dict, NamedTuple

import numpy as np
import torch
from torch import nn


class BasicBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int, downsample: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if downsample:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


def _layer(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride, downsample=in_channels != channels)
    return nn.Sequential(
        first, *(BasicBlock(channels, channels, 1, False) for _ in range(blocks - 1))
    )


class ResNet34(nn.Module):
    """The whole network; `features` is SSD's part of it. ssd: layer3 at stride 1 instead of 2."""

    def __init__(self, ssd: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _layer(64, 64, 3, 1)
        self.layer2 = _layer(64, 128, 4, 2)
        self.layer3 = _layer(128, 256, 6, 1 if ssd else 2)
        self.layer4 = _layer(256, 512, 3, 2)
        self.fc = nn.Linear(512, 1000)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer3(self.layer2(self.layer1(x)))


class Reference(NamedTuple):
    state_dict: Dict[
        str, torch.Tensor
    ]  # torchvision's names, layer4, fc and num_batches_tracked among them
    images: np.ndarray  # (N, 3, H, W) float32, as if normalised
    features: (
        np.ndarray
    )  # (N, 256, ceil(H/8), ceil(W/8)) float32: SSD's backbone in evaluation mode


def reference(seed: int = 0, batch: int = 2, height: int = 300, width: int = 300) -> Reference:
    """Random weights, BatchNorm parameters and running statistics; random images; SSD's features of
    them.

    state_dict: for NumPy arrays, {name: tensor.numpy() for name, tensor in
    reference().state_dict.items()}.
    """
    generator = torch.Generator().manual_seed(seed)
    network = ResNet34(ssd=True).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(1)
            elif (
                tensor.dim() > 1
            ):  # He et al.'s initialisation keeps the features' size through the depth
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
            elif name.endswith(("running_var", "weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.normal_(0, 0.2, generator=generator)
        images = torch.randn(batch, 3, height, width, generator=generator)
        features = network.features(images)
    return Reference(network.state_dict(), images.numpy(), features.numpy())
