"""RetinaNet in PyTorch, of the same structure as our recipes': the other side of peer_pytorch.py.

Structure, loss and detections are those of the PyTorch reference of MLPerf Training v2.0 to v5.1
(single_stage_detector/ssd/model), written from their description, as a user of PyTorch would write
them: frozen BatchNorm as a layer that scales and shifts, one-hot targets and binary cross-entropy
image by image, sigmoid over all scores. `lean` is the fastest form that we found: frozen BatchNorm
inside the weights, and the focal loss and its gradient in one pass over pieces that fit the cache.
Modules are named as ours, so that one set of weights serves both.
"""

from __future__ import annotations

import math
from typing import List

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.torch_ssd import kept_by_nms, scaled
from ssd.model.backbones import resnet_specs
from ssd.model.boxes.box_rules import sizes_of

FORMS = ("plain", "channels_last", "compile", "lean")
MAX_LOG_SIZE = math.log(1000 / 16)  # of a box's growth
PIECE = 1 << 16  # logits that the lean loss works on at a time


class FrozenBatchNorm(nn.Module):
    """BatchNorm as a scale and a shift of its four vectors, none of which is trained. in_weights:
    they are folded into the convolution before it."""

    def __init__(self, channels: int, eps: float, in_weights: bool):
        super().__init__()
        self.eps, self.in_weights = eps, in_weights
        for name, value in (
            ("weight", 1.0),
            ("bias", 0.0),
            ("running_mean", 0.0),
            ("running_var", 1.0),
        ):
            self.register_buffer(name, torch.full((channels,), value))

    def scale_and_shift(self):
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x):
        scale, shift = self.scale_and_shift()
        return x * scale[:, None, None] + shift[:, None, None]


def normalised(convolution: nn.Conv2d, norm: nn.Module, x):
    """x convolved and normalised."""
    if getattr(norm, "in_weights", False):
        scale, shift = norm.scale_and_shift()
        return F.conv2d(
            x,
            convolution.weight * scale[:, None, None, None],
            shift,
            convolution.stride,
            convolution.padding,
            groups=convolution.groups,
        )
    return norm(convolution(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 in groups, 1x1; and a 1x1 on the shortcut where the shape changes. The stride is the
    3x3's."""

    def __init__(
        self, in_channels: int, middle: int, channels: int, stride: int, groups: int, norm
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, middle, 1, bias=False)
        self.bn1 = norm(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = norm(middle)
        self.conv3 = nn.Conv2d(middle, channels, 1, bias=False)
        self.bn3 = norm(channels)
        self.downsample = self.downsample_bn = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample_bn = norm(channels)

    def forward(self, x):
        shortcut = (
            x if self.downsample is None else normalised(self.downsample, self.downsample_bn, x)
        )
        x = F.relu(normalised(self.conv1, self.bn1, x), inplace=True)
        x = F.relu(normalised(self.conv2, self.bn2, x), inplace=True)
        return F.relu(normalised(self.conv3, self.bn3, x) + shortcut, inplace=True)


class Backbone(nn.Module):
    """A bottleneck ResNet or ResNeXt; its maps of an eighth, a sixteenth and a 32nd of the image's
    sides. The first `frozen_stages` of stem, layer1 ... are not trained."""

    def __init__(self, model, norm):
        super().__init__()
        spec = resnet_specs.spec_of(model.backbone, pyramid=True)
        channels = scaled(resnet_specs.STEM_CHANNELS, model.width)
        self.conv1, self.bn1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False), norm(channels)
        stages, self.taps = [[] for _ in spec.kept], spec.taps
        for number, block in resnet_specs.residual_blocks(
            spec, spec.kept, lambda count: scaled(count, model.width)
        ):
            first, grouped, last = block.convolutions
            stages[number - 1].append(
                Bottleneck(
                    first.in_channels,
                    grouped.channels,
                    last.channels,
                    grouped.stride,
                    grouped.groups,
                    norm,
                )
            )
        self.stages = nn.Sequential(*(nn.Sequential(*blocks) for blocks in stages))
        self.channels = [stages[number - 1][-1].conv3.out_channels for number in spec.taps]
        for part in [self.conv1, self.bn1, *self.stages][
            : model.frozen_stages and 1 + model.frozen_stages
        ]:
            part.requires_grad_(False)

    def forward(self, x) -> List[torch.Tensor]:
        x = F.max_pool2d(F.relu(normalised(self.conv1, self.bn1, x), inplace=True), 3, 2, 1)
        maps = []
        for number, stage in enumerate(self.stages, start=1):
            x = stage(x)
            if number in self.taps:
                maps.append(x)
        return maps


class Tower(nn.Module):
    """Convolutions with ReLU, and a last one of `values` channels per box."""

    def __init__(self, channels: int, convolutions: int, boxes: int, values: int):
        super().__init__()
        self.values = values
        self.conv = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convolutions)
        )
        self.out = nn.Conv2d(channels, boxes * values, 3, padding=1)

    def forward(self, x):
        """(B, C, H, W) to (B, H * W * boxes, values)."""
        for layer in self.conv:
            x = F.relu(layer(x), inplace=True)
        x = self.out(x)
        batch, _, height, width = x.shape
        return (
            x.view(batch, -1, self.values, height, width)
            .permute(0, 3, 4, 1, 2)
            .reshape(batch, -1, self.values)
        )


class RetinaNet(nn.Module):
    """Images (B, 3, H, W) to offsets (B, N, 4) in units of the variances, cxcywh, and logits (B, N,
    classes - 1)."""

    def __init__(self, config, lean: bool = False):
        super().__init__()
        model = config.model

        def norm(channels):
            if model.batch_norm == "frozen":
                return FrozenBatchNorm(channels, model.batch_norm_epsilon, lean)
            return nn.BatchNorm2d(channels, model.batch_norm_epsilon, 1 - model.batch_norm_momentum)

        self.backbone = Backbone(model, norm)
        width = scaled(model.pyramid_channels, model.width)
        self.fpn_lateral = nn.ModuleList(
            nn.Conv2d(channels, width, 1) for channels in self.backbone.channels
        )
        self.fpn_smooth = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1) for _ in self.backbone.channels
        )
        self.fpn_coarser = nn.ModuleList(nn.Conv2d(width, width, 3, 2, 1) for _ in range(2))
        boxes = sizes_of(config).per_cell[0]
        self.predictors = nn.ModuleDict(
            dict(
                classification=Tower(width, model.tower_convolutions, boxes, model.num_classes - 1),
                regression=Tower(width, model.tower_convolutions, boxes, 4),
            )
        )

    def maps(self, images) -> List[torch.Tensor]:
        """P3 to P7."""
        inner = [layer(part) for layer, part in zip(self.fpn_lateral, self.backbone(images))]
        for index in range(len(inner) - 1, 0, -1):
            inner[index - 1] = inner[index - 1] + F.interpolate(
                inner[index], size=inner[index - 1].shape[2:]
            )
        maps = [layer(part) for layer, part in zip(self.fpn_smooth, inner)]
        maps.append(self.fpn_coarser[0](maps[-1]))
        maps.append(self.fpn_coarser[1](F.relu(maps[-1])))
        return maps

    def forward(self, images):
        maps = self.maps(images)
        logits, offsets = (
            torch.cat([tower(part) for part in maps], dim=1) for tower in self.predictors.values()
        )
        return offsets, logits


def focal_loss(logits, classes, alpha: float, gamma: float):
    """The sum over an image's anchors that are not ignored and all its classes; logits (N,
    classes), classes (N,) int64: from 1, 0 background, -1 ignored."""
    positive, counted = classes > 0, classes >= 0
    targets = torch.zeros_like(logits)
    targets[positive, classes[positive] - 1] = 1
    logits, targets = logits[counted], targets[counted]
    score = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    error = 1 - (score * targets + (1 - score) * (1 - targets))
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return (weight * error**gamma * cross_entropy).sum()


class LeanFocalLoss(torch.autograd.Function):
    """The same for batches, logits (B, N, classes) and classes (B, N), to (B,). The gradient is
    computed with the loss, piece by piece: one array of the logits' shape is all that is kept."""

    @staticmethod
    def forward(ctx, logits, classes, alpha: float, gamma: float):
        batch, boxes, width = logits.shape
        slopes, sums = torch.empty_like(logits), logits.new_zeros(batch)
        rows = max(1, PIECE // width)
        for image in range(batch):
            for start in range(0, boxes, rows):
                piece = slice(start, start + rows)
                labels, x, slope = classes[image, piece], logits[image, piece], slopes[image, piece]
                own = (labels > 0).nonzero()[:, 0], labels[labels > 0] - 1
                wrong = x.clone()  # the logit of being wrong: negated at the class of a positive
                wrong[own] = -wrong[own]
                error = wrong.sigmoid()
                loss = F.softplus(wrong)
                power = error * error if gamma == 2 else error**gamma
                weight = (labels >= 0).to(x.dtype)[:, None] * (1 - alpha)
                # The derivative of error^gamma loss is error^gamma (error + gamma (1 - error)
                # loss).
                torch.mul(power, torch.addcmul(error, 1 - error, loss, value=gamma), out=slope)
                slope *= weight
                power *= loss
                slope[own] *= -alpha / (1 - alpha)
                value = torch.mv(power, power.new_ones(width)) @ weight[:, 0]
                sums[image] += value + (2 * alpha - 1) * power[own].sum()
        ctx.save_for_backward(slopes)
        return sums

    @staticmethod
    def backward(ctx, gradient):
        # No other code holds the array.
        return ctx.saved_tensors[0].mul_(gradient[:, None, None]), None, None, None


def loss(config, form: str):
    """offsets, logits, target offsets (B, N, 4), target classes (B, N) int64 to the losses of
    classes and boxes, (B,) each."""
    alpha, gamma = config.loss.focal_alpha, config.loss.focal_gamma

    def losses(offsets, logits, target_offsets, target_classes):
        classes, boxes = [], []
        for image, labels in enumerate(target_classes):
            positive = labels > 0
            count = positive.sum().clamp(min=1)
            if form != "lean":
                classes.append(focal_loss(logits[image], labels, alpha, gamma) / count)
            boxes.append(
                F.l1_loss(
                    offsets[image][positive], target_offsets[image][positive], reduction="sum"
                )
                / count
            )
        if form != "lean":
            return torch.stack(classes), torch.stack(boxes)
        sums = LeanFocalLoss.apply(logits, target_classes, alpha, gamma)
        return sums / (target_classes > 0).sum(dim=1).clamp(min=1), torch.stack(boxes)

    return losses


def build(config, form: str) -> RetinaNet:
    return RetinaNet(config, lean=form == "lean")


def optimizer(config, parameters, learning_rate: float):
    """parameters: those that are trained, by name."""
    training = config.training
    return torch.optim.Adam(
        parameters.values(),
        lr=learning_rate,
        betas=tuple(training.adam_betas),
        eps=training.adam_epsilon,
        weight_decay=training.weight_decay,
        fused=True,
    )


def decode(offsets, boxes, settings, size):
    """Encoded offsets (n, 4) of boxes (n, 4) cxcywh to ltrb (n, 4), clipped to `size`, (width,
    height) [pixels]."""
    center = offsets[:, :2] * settings.center_variance * boxes[:, 2:] + boxes[:, :2]
    half = (
        (offsets[:, 2:] * settings.size_variance).clamp(max=MAX_LOG_SIZE).exp() * boxes[:, 2:] / 2
    )
    return torch.cat([center - half, center + half], dim=1).clamp(min=0).minimum(size.repeat(2))


def suppressed(boxes, scores, labels, threshold: float):
    """Which of boxes (n, 4) are left by greedy non-maximum suppression within each class: their
    indices, best score first.

    What torchvision.ops.batched_nms does. That library is not installed here; instead the boxes of
    each class become a row, and kept_by_nms works on all rows at once.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]  # by class, best first
    _, row, counts = labels[order].unique_consecutive(return_inverse=True, return_counts=True)
    place = torch.arange(len(order)) - (counts.cumsum(0) - counts)[row]
    rows = boxes.new_zeros(len(counts), int(counts.max()), 4)
    valid = torch.zeros(rows.shape[:2], dtype=torch.bool)
    rows[row, place], valid[row, place] = boxes[order], True
    # Only IoUs strictly above the threshold suppress.
    kept = order[
        kept_by_nms(rows, valid, float(np.nextafter(np.float32(threshold), np.float32(1))))[
            row, place
        ]
    ]
    return kept[scores[kept].argsort(descending=True)]


def postprocessing(config, default_boxes):
    """A function of offsets (B, N, 4) and logits (B, N, classes): per image its detections (n, 6),
    best first: class (1..), score, ltrb as fractions of the image. default_boxes: (N, 4) cxcywh as
    fractions of the image."""
    settings, (height, width) = config.detection, config.model.image_size
    counts = [cells * each for cells, each in sizes_of(config).grid]
    size = torch.tensor([width, height], dtype=torch.float32)
    levels = default_boxes.mul(size.repeat(2)).split(counts)

    def of_image(offsets, logits):
        parts = []
        for anchors, moved, values in zip(levels, offsets.split(counts), logits.split(counts)):
            scores = values.sigmoid().flatten()
            passing = (scores > settings.score_threshold).nonzero()[:, 0]
            best, order = scores[passing].topk(min(settings.candidates_per_map, len(passing)))
            box, label = passing[order] // values.shape[1], passing[order] % values.shape[1]
            parts.append(
                (decode(moved[box], anchors[box], config.default_boxes, size), best, label)
            )
        boxes, scores, labels = (torch.cat(column) for column in zip(*parts))
        if not len(scores):
            return offsets.new_zeros((0, 6))
        kept = suppressed(boxes, scores, labels, settings.nms_iou)[: settings.boxes_per_image]
        return torch.cat(
            [(labels[kept] + 1)[:, None], scores[kept, None], boxes[kept] / size.repeat(2)], dim=1
        )

    return lambda offsets, logits: [of_image(*image) for image in zip(offsets, logits)]
