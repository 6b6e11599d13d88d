"""MobileNetV2 and V3 large in PyTorch with the names of torchvision's modules: what its .pth files
hold."""

import numpy as np
import torch
from torch import nn

# expansion, channels, repeats, stride (Sandler et al., 2018, table 2)
V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# kernel, hidden, channels, squeezed, activation, stride (Howard et al., 2019, table 1)
V3 = (
    (3, 16, 16, 0, "R", 1),
    (3, 64, 24, 0, "R", 2),
    (3, 72, 24, 0, "R", 1),
    (5, 72, 40, 24, "R", 2),
    (5, 120, 40, 32, "R", 1),
    (5, 120, 40, 32, "R", 1),
    (3, 240, 80, 0, "H", 2),
    (3, 200, 80, 0, "H", 1),
    (3, 184, 80, 0, "H", 1),
    (3, 184, 80, 0, "H", 1),
    (3, 480, 112, 120, "H", 1),
    (3, 672, 112, 168, "H", 1),
    (5, 672, 160, 168, "H", 2),
    (5, 960, 160, 240, "H", 1),
    (5, 960, 160, 240, "H", 1),
)
ACTIVATIONS = {"6": nn.ReLU6, "R": nn.ReLU, "H": nn.Hardswish}


def layer(inputs, channels, kernel, stride, activation, eps, groups=1):
    layers = [
        nn.Conv2d(inputs, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels, eps=eps),
    ]
    return nn.Sequential(*layers, *([ACTIVATIONS[activation]()] if activation else []))


class Squeeze(nn.Module):
    def __init__(self, channels, squeezed):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x):
        factor = self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * nn.functional.hardsigmoid(factor)


class Block(nn.Module):
    """Keeps the output of its first layer."""

    def __init__(self, name, layers, residual):
        super().__init__()
        self.name, self.residual = name, residual
        setattr(self, name, nn.Sequential(*layers))

    def forward(self, x):
        y = x
        for index, part in enumerate(getattr(self, self.name)):
            y = part(y)
            if index == 0:
                self.hidden = y
        return x + y if self.residual else y


class MobileNet(nn.Module):
    def __init__(self, version):
        super().__init__()
        blocks, inputs, eps = [], (32 if version == 2 else 16), (1e-5 if version == 2 else 1e-3)
        activation = "6" if version == 2 else "H"
        self.features = nn.Sequential(layer(3, inputs, 3, 2, activation, eps))
        if version == 2:
            for expand, channels, repeats, stride in V2:
                for index in range(repeats):
                    blocks.append(
                        (
                            3,
                            expand * (blocks[-1][2] if blocks else inputs),
                            channels,
                            0,
                            "6",
                            1 if index else stride,
                        )
                    )
        for kernel, hidden, channels, squeezed, kind, stride in blocks or V3:
            layers = [layer(inputs, hidden, 1, 1, kind, eps)] if hidden != inputs else []
            layers.append(layer(hidden, hidden, kernel, stride, kind, eps, hidden))
            layers += [Squeeze(hidden, squeezed)] if squeezed else []
            last = layer(hidden, channels, 1, 1, "", eps)
            layers += list(last) if version == 2 else [last]
            self.features.append(
                Block(
                    "conv" if version == 2 else "block", layers, stride == 1 and inputs == channels
                )
            )
            inputs = channels
        last = 1280 if version == 2 else 960
        self.features.append(layer(inputs, last, 1, 1, activation, eps))
        self.classifier = (
            nn.Sequential(nn.Dropout(0.2), nn.Linear(last, 1000))
            if version == 2
            else nn.Sequential(
                nn.Linear(last, 1280), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(1280, 1000)
            )
        )


def mobilenet(version, seed=0):
    """In evaluation mode, with weights that keep values of about 1."""
    torch.manual_seed(seed)
    network = MobileNet(version).eval()
    generator = np.random.default_rng(seed)
    for name, value in network.state_dict().items():
        if value.dim() == 4:
            drawn = generator.standard_normal(value.shape) * np.sqrt(2 / np.prod(value.shape[1:]))
        elif name.endswith("running_var"):
            # Small ones for V3, so that its epsilon counts.
            drawn = generator.uniform(0.5, 1.5, value.shape) * (1 if version == 2 else 0.01)
        elif value.dim() == 1 and name.endswith("weight"):
            drawn = generator.uniform(0.5, 1.5, value.shape) * (0.5 if version == 2 else 0.1)
        elif value.dim() == 1:
            drawn = 0.1 * generator.standard_normal(value.shape)
        else:
            continue
        value.copy_(torch.from_numpy(np.asarray(drawn, np.float32)))
    return network


def maps(network, images, tap):
    """Output of block `tap`, the expansion in the next one, the last layer: arrays."""
    with torch.no_grad():
        x, found = torch.from_numpy(images), []
        for index, part in enumerate(network.features):
            x = part(x)
            if index == tap:
                found.append(x)
            if index == tap + 1:
                found.append(part.hidden)
    return [part.numpy() for part in (*found, x)]
