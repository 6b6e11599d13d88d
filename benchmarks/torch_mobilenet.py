"""SSD on MobileNetV2 in PyTorch, of the same structure as our recipes': the other side of
peer_pytorch.py.

Two detectors: MindCV's (ssd-mobilenetv2-coco: extras padded as TensorFlow pads, focal loss over the
batch, sigmoid scores) and uvipen's SSDLite (ssdlite-mobilenetv2-coco: torch_ssd's loss and
detections). Written from their description as a user of PyTorch would write them. Modules are named
as ours, so that one set of weights serves both.
"""

from __future__ import annotations

from typing import List, Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import torch_ssd
from benchmarks.torch_ssd import decode, kept_by_nms, scaled
from ssd.model.backbones import mobilenet_specs
from ssd.model.boxes.box_rules import sizes_of

FORMS = ("plain", "channels_last", "compile")


class ConvNorm(nn.Module):
    """Convolution, BatchNorm, and by default ReLU6. same_of: side of the square input [cells] that
    is padded as TensorFlow pads; else half the kernel on each side."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        kernel: int,
        norm,
        *,
        stride: int = 1,
        depthwise: bool = False,
        bias: bool = False,
        active: bool = True,
        same_of: Optional[int] = None,
    ):
        super().__init__()
        before, self.after, self.active = kernel // 2, 0, active
        if same_of is not None:
            total = max((-(-same_of // stride) - 1) * stride + kernel - same_of, 0)
            before = total // 2
            self.after = total - 2 * before
        self.conv = nn.Conv2d(
            inputs, channels, kernel, stride, before, groups=inputs if depthwise else 1, bias=bias
        )
        self.bn = nn.BatchNorm2d(channels, *norm)

    def forward(self, x):
        if self.after:
            x = F.pad(x, (0, self.after, 0, self.after))
        x = self.bn(self.conv(x))
        return F.relu6(x, inplace=True) if self.active else x


class InvertedResidual(nn.Module):
    def __init__(self, block, norm):
        super().__init__()
        self.residual = block.residual
        self.expand = (
            ConvNorm(block.inputs, block.hidden, 1, norm) if block.hidden != block.inputs else None
        )
        self.depthwise = ConvNorm(
            block.hidden, block.hidden, block.kernel, norm, stride=block.stride, depthwise=True
        )
        self.project = ConvNorm(block.hidden, block.channels, 1, norm, active=False)

    def forward(self, x):
        """The block's output, and its expansion."""
        hidden = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(hidden))
        return (x + y if self.residual else y), hidden


class Backbone(nn.Module):
    """MobileNetV2 to two maps, of a 16th and a 32nd of the sides."""

    def __init__(self, width: float, norm, inner_tap: bool):
        super().__init__()
        spec = mobilenet_specs.SPECS["mobilenet_v2"]
        blocks = list(mobilenet_specs.scaled_blocks(spec, lambda channels: scaled(channels, width)))
        self.tap, self.inner_tap = spec.tap, inner_tap
        self.stem = ConvNorm(3, scaled(spec.stem, width), 3, norm, stride=2)
        self.blocks = nn.ModuleList(InvertedResidual(block, norm) for block in blocks)
        last = scaled(spec.last, width)
        self.last = ConvNorm(blocks[-1].channels, last, 1, norm)
        self.channels = [
            blocks[spec.tap].hidden if inner_tap else blocks[spec.tap - 1].channels,
            last,
        ]

    def forward(self, x):
        x, first = self.stem(x), None
        for number, block in enumerate(self.blocks, start=1):
            x, hidden = block(x)
            if number == self.tap and not self.inner_tap:
                first = x
            elif number == self.tap + 1 and self.inner_tap:
                first = hidden
        return first, self.last(x)


class ExtraResidual(nn.Module):
    def __init__(self, inputs: int, hidden: int, channels: int, side: int, mindcv: bool, norm):
        super().__init__()
        self.expand = ConvNorm(inputs, hidden, 1, norm)
        self.depthwise = ConvNorm(
            hidden, hidden, 3, norm, stride=2, depthwise=True, same_of=side if mindcv else None
        )
        self.project = ConvNorm(hidden, channels, 1, norm, active=mindcv)

    def forward(self, x):
        return self.project(self.depthwise(self.expand(x)))


class Branch(nn.Module):
    """(B, C, H, W) to (B, H * W * boxes, values)."""

    def __init__(self, channels: int, boxes: int, values: int, bias: bool, norm):
        super().__init__()
        self.values = values
        self.depthwise = ConvNorm(channels, channels, 3, norm, depthwise=True, bias=bias)
        self.out = nn.Conv2d(channels, boxes * values, 1)

    def forward(self, x):
        return self.out(self.depthwise(x)).permute(0, 2, 3, 1).reshape(len(x), -1, self.values)


class MobileSSD(nn.Module):
    """Images (B, 3, S, S) to offsets (B, N, 4) in units of the variances, cxcywh, and logits (B, N,
    classes)."""

    def __init__(self, config):
        super().__init__()
        model, sizes = config.model, sizes_of(config)
        mindcv = model.features == "mobile_blocks"
        own = model.own_norm_epsilon, 1 - model.own_norm_momentum
        norm = model.batch_norm_epsilon, 1 - model.batch_norm_momentum
        self.detach = model.detach_first_map
        self.backbone = Backbone(model.width, norm, inner_tap=not mindcv)
        channels, self.tap = list(self.backbone.channels), None
        if mindcv:
            width = scaled(model.tap_channels, model.width)
            self.tap = ConvNorm(channels[0], width, 1, own if model.tap_own_norm else norm)
            channels[0] = width
        self.extras = nn.ModuleList()
        for (hidden, width), (side, _) in zip(sizes.channels, sizes.maps[1:]):
            hidden, width = scaled(hidden, model.width), scaled(width, model.width)
            self.extras.append(ExtraResidual(channels[-1], hidden, width, side, mindcv, own))
            channels.append(width)
        self.predictors = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: Branch(width, boxes, values, model.head_depthwise_bias, own)
                    for name, values in (("loc", 4), ("conf", model.num_classes))
                }
            )
            for width, boxes in zip(channels, sizes.per_cell)
        )

    def forward(self, images):
        first, last = self.backbone(images)
        first = first.detach() if self.detach else first
        maps = [first if self.tap is None else self.tap(first), last]
        for block in self.extras:
            maps.append(block(maps[-1]))
        return tuple(
            torch.cat(
                [head[name](features) for head, features in zip(self.predictors, maps)], dim=1
            )
            for name in ("loc", "conf")
        )


def focal_batch_loss(offsets, logits, target_offsets, target_classes, alpha: float, gamma: float):
    """Losses of classes and boxes, (B,) each, whose means are the batch's sums over the batch's
    positives. Focal loss of every class, the background's too; smooth L1 of the positives. Classes
    (B, N) int64, 0 for background."""
    positive = target_classes > 0
    divisor = positive.sum().clamp(min=1) / len(logits)
    targets = F.one_hot(target_classes, logits.shape[2]).to(logits.dtype)
    score = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    error = (score - targets).abs()
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    classes = (weight * error**gamma * cross_entropy).sum(dim=(1, 2))
    distance = F.smooth_l1_loss(offsets, target_offsets, reduction="none").sum(dim=2)
    return classes / divisor, (distance * positive).sum(dim=1) / divisor


def sigmoid_detections(offsets, logits, default_boxes, config) -> List[torch.Tensor]:
    """Per image its detections (n, 6), best first: class (1..), score, ltrb as fractions of the
    image. Suppression per class in pixels, the last one of a box included."""
    settings, variances, (height, width) = (
        config.detection,
        config.default_boxes,
        config.model.image_size,
    )
    boxes = decode(
        offsets, default_boxes, variances.center_variance, variances.size_variance
    ).clamp(0, 1)
    scores = logits[:, :, 1:].sigmoid().transpose(1, 2)  # (B, classes - 1, N)
    passing = scores > settings.score_threshold
    counts = passing.sum(dim=2)
    image, label = counts.nonzero(as_tuple=True)  # (R,) each
    if not len(image):
        return [offsets.new_zeros((0, 6))] * len(offsets)
    best, index = scores[image, label].topk(int(counts.max()), dim=1)  # (R, most)
    rows = boxes[image[:, None], index]  # (R, most, 4)
    pixels = rows * rows.new_tensor([width, height, width, height]) + rows.new_tensor([0, 0, 1, 1])
    # Only IoUs strictly above the threshold suppress.
    threshold = float(np.nextafter(np.float32(settings.nms_iou), np.float32(1)))
    kept = kept_by_nms(pixels, best > settings.score_threshold, threshold)
    kept &= kept.cumsum(dim=1) <= settings.kept_per_class
    row, place = kept.nonzero(as_tuple=True)
    found = torch.cat(
        [(label[row] + 1)[:, None].to(best.dtype), best[row, place][:, None], rows[row, place]],
        dim=1,
    )
    result = []
    for one in range(len(offsets)):
        mine = found[image[row] == one]
        result.append(mine[mine[:, 1].argsort(descending=True)[: settings.boxes_per_image]])
    return result


# ---- the interface that peer_pytorch.py uses


def build(config, form: str) -> MobileSSD:
    return MobileSSD(config)


def loss(config, form: str):
    """offsets, logits, target offsets (B, N, 4), target classes (B, N) int64 to the losses of
    classes and boxes, (B,) each."""
    if config.loss.loss == "hard_negatives":
        return torch_ssd.loss(config, form)
    return lambda *arrays: focal_batch_loss(
        *arrays, config.loss.focal_alpha, config.loss.focal_gamma
    )


def optimizer(config, parameters, learning_rate: float):
    """parameters: those that are trained, by name."""
    training = config.training
    kept = {name for name in parameters if ".bn." in name and not training.decay_norms}
    groups = [
        dict(params=[parameters[name] for name in parameters if name not in kept]),
        dict(params=[parameters[name] for name in kept], weight_decay=0),
    ]
    return torch.optim.SGD(
        groups[: 2 if kept else 1],
        lr=learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        nesterov=training.optimizer == "nesterov",
        fused=True,
    )


def postprocessing(config, default_boxes):
    """A function of offsets and logits, as `sigmoid_detections`. default_boxes: (N, 4) cxcywh as
    fractions of the image."""
    if config.detection.detections == "per_class":
        return torch_ssd.postprocessing(config, default_boxes)
    return lambda offsets, logits: sigmoid_detections(offsets, logits, default_boxes, config)
