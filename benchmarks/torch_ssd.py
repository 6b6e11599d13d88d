"""SSD-ResNet34 in PyTorch, of the same structure as ssd.model.network: the other side of
peer_pytorch.py.

Structure, loss and decoding are those of the PyTorch reference of MLPerf Training v1.1
(base_model.py, ssd300.py, utils.py), written as one would write them today: one fused convolution
per head, whose output in channels_last is already in the order of the boxes; one sort in the hard
negative mining; suppression of all classes and images at once. Modules are named as ours, so that
one set of weights serves both.
"""

from __future__ import annotations

from typing import Dict, List

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ssd.model.boxes.box_rules import sizes_of

FORMS = ("plain", "channels_last", "compile")
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 1))  # blocks, channels, stride of the first block


def scaled(channels: int, width: float) -> int:
    return channels if width == 1 else max(8, round(channels * width / 8) * 8)


class BasicBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = self.downsample_bn = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample_bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample_bn(self.downsample(x))
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class Backbone(nn.Module):
    """ResNet-34 up to layer3, which keeps layer2's resolution."""

    def __init__(self, width: float):
        super().__init__()
        channels = scaled(64, width)
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        stages = []
        for blocks, out, stride in STAGES:
            out = scaled(out, width)
            stages.append(
                nn.Sequential(
                    *(
                        BasicBlock(out if block else channels, out, 1 if block else stride)
                        for block in range(blocks)
                    )
                )
            )
            channels = out
        self.stages = nn.Sequential(*stages)
        self.out_channels = channels

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.stages(F.max_pool2d(x, 3, 2, 1))


class Predictor(nn.Module):
    """Offsets and logits of one feature map; channels are offsets (shape, coordinate), then logits
    (shape, class)."""

    def __init__(self, in_channels: int, boxes: int, classes: int):
        super().__init__()
        self.boxes, self.classes = boxes, classes
        self.conv = nn.Conv2d(in_channels, boxes * (4 + classes), 3, padding=1)

    def forward(self, x):
        x = self.conv(x).permute(0, 2, 3, 1)
        offsets, logits = x.split([self.boxes * 4, self.boxes * self.classes], dim=3)
        return offsets.reshape(len(x), -1, 4), logits.reshape(len(x), -1, self.classes)


class SSD(nn.Module):
    """Images (B, 3, S, S) to offsets (B, N, 4) in units of the variances, cxcywh, and logits (B, N,
    classes)."""

    def __init__(self, config):
        super().__init__()
        model = config.model
        self.backbone = Backbone(model.width)
        channels = [self.backbone.out_channels]
        self.expand_trans_convs, self.expand_convs = nn.ModuleList(), nn.ModuleList()
        sizes = sizes_of(config)
        for (middle, out), stride, pad in zip(sizes.channels, sizes.strides, sizes.pads):
            middle, out = scaled(middle, model.width), scaled(out, model.width)
            self.expand_trans_convs.append(nn.Conv2d(channels[-1], middle, 1))
            self.expand_convs.append(nn.Conv2d(middle, out, 3, stride, pad))
            channels.append(out)
        self.predictors = nn.ModuleList(
            Predictor(width, boxes, model.num_classes)
            for width, boxes in zip(channels, sizes.per_cell)
        )
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = (
                    model.batch_norm_epsilon,
                    1 - model.batch_norm_momentum,
                )

    def forward(self, images):
        maps = [self.backbone(images)]
        for reduce, expand in zip(self.expand_trans_convs, self.expand_convs):
            x = F.relu(reduce(maps[-1]), inplace=True)
            maps.append(F.relu(expand(x), inplace=True))
        offsets, logits = zip(*(head(features) for head, features in zip(self.predictors, maps)))
        return torch.cat(offsets, dim=1), torch.cat(logits, dim=1)


def our_name(name: str, tensors) -> str:
    """The structural name in MXNet of a tensor of the state dict: BatchNorm's weight and bias are
    gamma and beta."""
    stem, last = name.rsplit(".", 1)
    return (
        f"{stem}.{dict(weight='gamma', bias='beta')[last]}"
        if f"{stem}.gamma" in tensors and last in ("weight", "bias")
        else name
    )


def load(network: nn.Module, tensors: Dict[str, np.ndarray]) -> None:
    """Weights and running statistics under our names."""
    state = {
        name: torch.from_numpy(np.array(tensors[our_name(name, tensors)]))
        for name in network.state_dict()
        if not name.endswith("num_batches_tracked")
    }
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """BatchNorm folded into the convolutions before it, for inference; changes and returns the
    network."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for module in network.modules():
        for conv, norm in (
            ("conv1", "bn1"),
            ("conv2", "bn2"),
            ("conv3", "bn3"),
            ("downsample", "downsample_bn"),
            ("conv", "bn"),
        ):
            if getattr(module, norm, None) is not None:
                setattr(
                    module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm))
                )
                setattr(module, norm, nn.Identity())
    return network


def ssd_loss(offsets, logits, target_offsets, target_classes, negatives_per_positive: int):
    """Class and offset losses, (B,) each: cross-entropy of positives and hard negatives, smooth L1
    of positives, over the positives. Classes (B, N) int64, 0 for background."""
    positive = target_classes > 0
    positives = positive.sum(dim=1)
    cross_entropy = F.cross_entropy(
        logits.flatten(0, 1), target_classes.flatten(), reduction="none"
    )
    cross_entropy = cross_entropy.view_as(target_classes)
    with torch.no_grad():
        order = cross_entropy.masked_fill(positive, -1).argsort(dim=1, descending=True, stable=True)
        first = torch.arange(order.shape[1]) < (negatives_per_positive * positives)[:, None]
        chosen = torch.zeros_like(positive).scatter_(1, order, first) | positive
    distance = F.smooth_l1_loss(offsets, target_offsets, reduction="none").sum(dim=2)
    divisor = positives.clamp(min=1)
    return (cross_entropy * chosen).sum(dim=1) / divisor, (distance * positive).sum(dim=1) / divisor


def decode(offsets, default_boxes, center_variance: float, size_variance: float):
    """Encoded offsets (B, N, 4) at default boxes (N, 4) cxcywh to ltrb (B, N, 4)."""
    center = offsets[..., :2] * center_variance * default_boxes[:, 2:] + default_boxes[:, :2]
    half = (offsets[..., 2:] * size_variance).exp() * default_boxes[:, 2:] / 2
    return torch.cat([center - half, center + half], dim=2)


def kept_by_nms(boxes, valid, threshold: float):
    """Greedy non-maximum suppression in all rows at once: boxes (R, K, 4) ltrb, best first; valid
    (R, K). Returns which are kept, (R, K).

    A box is kept if no kept box before it overlaps it. This is iterated from "all are kept" until
    nothing changes: after i rounds the first i decisions are final, and usually a few rounds are
    enough.
    """
    left_top = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    right_bottom = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    common = (right_bottom - left_top).clamp(min=0).prod(dim=3)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=2)
    iou = common / (area[:, :, None] + area[:, None] - common)
    overlaps = (iou >= threshold).triu(diagonal=1) & valid[:, :, None]
    kept = valid
    while True:
        following = valid & ~(overlaps & kept[:, :, None]).any(dim=1)
        if torch.equal(following, kept):
            return kept
        kept = following


def detections(offsets, logits, default_boxes, config) -> List[torch.Tensor]:
    """Per image its detections (n, 6), best first: class (1..), score, ltrb as fractions of the
    image."""
    settings, variances = config.detection, config.default_boxes
    boxes = decode(offsets, default_boxes, variances.center_variance, variances.size_variance)
    scores = logits.softmax(dim=2)[:, :, 1:].transpose(1, 2)  # (B, classes - 1, N)
    passing = scores > settings.score_threshold
    counts = passing.sum(dim=2)
    image, label = counts.nonzero(as_tuple=True)  # (R,) each
    if not len(image):
        return [offsets.new_zeros((0, 6))] * len(offsets)
    most = min(settings.boxes_per_class, int(counts.max()))
    best, index = scores[image, label].topk(most, dim=1)  # (R, most)
    rows = boxes[image[:, None], index]  # (R, most, 4)
    kept = kept_by_nms(rows, best > settings.score_threshold, settings.nms_iou)
    row, place = kept.nonzero(as_tuple=True)
    found = torch.cat(
        [(label[row] + 1)[:, None].to(best.dtype), best[row, place][:, None], rows[row, place]],
        dim=1,
    )
    result = []
    for one in range(len(offsets)):
        mine = found[image[row] == one]
        order = mine[:, 1].argsort(descending=True)[: settings.boxes_per_image]
        result.append(mine[order])
    return result


# ---- the interface that peer_pytorch.py uses


def build(config, form: str) -> SSD:
    return SSD(config)


def loss(config, form: str):
    """As ssd_loss, of the recipe's settings."""
    return lambda *arrays: ssd_loss(*arrays, config.loss.negatives_per_positive)


def optimizer(config, parameters, learning_rate: float):
    """parameters: those that are trained, by name."""
    training = config.training
    return torch.optim.SGD(
        parameters.values(),
        lr=learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        fused=True,
    )


def postprocessing(config, default_boxes):
    """A function of offsets and logits, as `detections`. default_boxes: (N, 4) cxcywh as fractions
    of the image."""
    return lambda offsets, logits: detections(offsets, logits, default_boxes, config)
