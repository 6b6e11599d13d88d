"""The settings of the model by section: name, type, unit, allowed values. ssd.sections has the
others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from ssd.setting import LARGEST, SMALLEST, ImageSize, setting

# The kinds that a setting can choose, in the order of the help texts. The code of each kind is in a
# table of the same name with these keys, in ssd.model.detector.
BACKBONES = ("resnet34", "resnet50", "resnext50_32x4d", "mobilenet_v2", "mobilenet_v3_large")
FEATURES = (
    "plain_blocks",
    "batch_norm_blocks",
    "ssdlite_blocks",
    "mobile_blocks",
    "pyramid",
    "norm_pyramid",
)
HEADS = ("fused", "separable", "shared", "shared_norm")
BOX_RULES = ("ssd", "mobile", "retinanet", "pyramid")
MATCHERS = ("ssd", "mindcv", "retinanet")
LOSSES = ("hard_negatives", "focal", "focal_batch")
DETECTIONS = ("per_class", "per_class_sigmoid", "per_level")

# Features that work on three maps of a backbone with all stages, an eighth to a 32nd of the image's
# sides; the others work on one.
PYRAMIDS = ("pyramid", "norm_pyramid")
MOBILE_BLOCKS = ("ssdlite_blocks", "mobile_blocks")  # on two maps, a 16th and a 32nd
EXTRA_BLOCKS = ("plain_blocks", "batch_norm_blocks", *MOBILE_BLOCKS)
SSD_RULES = ("ssd", "mobile")


@dataclass(frozen=True)
class ModelConfig:
    """What the network is. Channel counts are those of the full network; `width` scales them
    all."""

    detector: str = setting("detector family", choices=("ssd", "retinanet"))
    backbone: str = setting("backbone", choices=BACKBONES)
    frozen_stages: int = setting(
        "stages of the backbone that are not trained, BatchNorm included, counted from the stem "
        "(1); 0: all are trained",
        minimum=0,
        flag=False,
        before=0,
    )
    batch_norm: str = setting(
        "BatchNorm of the network: trained, or frozen at the values of the backbone's weights",
        choices=("trained", "frozen"),
        flag=False,
        before="trained",
    )
    features: str = setting(
        "what follows the backbone: plain convolutions, convolutions with BatchNorm, or a feature "
        "pyramid",
        choices=FEATURES,
        flag=False,
        before="plain_blocks",
    )
    pyramid_channels: Optional[int] = setting(
        "channels of every map of the pyramid",
        minimum=1,
        flag=False,
        only=("model.features", PYRAMIDS),
    )
    head: str = setting(
        "how offsets and class logits are predicted: by a convolution on each map, softmax over "
        "the classes and the background; or by towers that all maps share, a sigmoid per class",
        choices=HEADS,
        flag=False,
        before="fused",
    )
    head_kernel: Optional[int] = setting(
        "side of the head's convolutions [cells]",
        choices=(1, 3, 5),
        flag=False,
        before=3,
        only=("model.head", ("fused",)),
    )
    tower_convolutions: Optional[int] = setting(
        "convolutions in each tower of the head, before its last one",
        minimum=0,
        flag=False,
        only=("model.head", ("shared", "shared_norm")),
    )
    prior: Optional[float] = setting(
        "score of every class before training",
        above=0,
        maximum=1,
        flag=False,
        only=("model.head", ("shared",)),
    )
    width: float = setting(
        "factor on every channel count of backbone and extra features", above=0, maximum=4
    )
    image_size: ImageSize = setting(
        "size of the input [pixels]: one number for a square, or HEIGHTxWIDTH; feature maps and "
        "default boxes follow from it",
        minimum=SMALLEST,
        maximum=LARGEST,
    )
    num_classes: int = setting(
        "classes, background included; 0: counted from the training annotations", minimum=0
    )
    own_norm_epsilon: Optional[float] = setting(
        "batch_norm_epsilon of extra features and heads",
        above=0,
        flag=False,
        only=("model.features", (*MOBILE_BLOCKS, "norm_pyramid")),
    )
    own_norm_momentum: Optional[float] = setting(
        "batch_norm_momentum of extra features and heads",
        minimum=0,
        maximum=1,
        flag=False,
        only=("model.features", (*MOBILE_BLOCKS, "norm_pyramid")),
    )
    detach_first_map: Optional[bool] = setting(
        "the first head sends no gradient into the backbone",
        flag=False,
        only=("model.features", MOBILE_BLOCKS),
    )
    tap_channels: Optional[int] = setting(
        "channels of the 1x1 convolution on the backbone's first map",
        minimum=1,
        flag=False,
        only=("model.features", ("mobile_blocks",)),
    )
    tap_own_norm: Optional[bool] = setting(
        "its BatchNorm has the settings of extra features and heads, not the backbone's",
        flag=False,
        only=("model.features", ("mobile_blocks",)),
    )
    head_depthwise_bias: Optional[bool] = setting(
        "the head's depthwise convolutions have a bias",
        flag=False,
        only=("model.head", ("separable",)),
    )
    initial: str = setting(
        "how the weights of extra features and heads are drawn: Xavier uniform, or normal, "
        "truncated at two deviations",
        choices=("xavier", "truncated_normal"),
        flag=False,
        before="xavier",
    )
    layout: str = setting(
        "memory layout of activations (NHWC needs a GPU)", choices=("NCHW", "NHWC")
    )
    dtype: str = setting(
        "type of weights and activations (float16 needs a GPU)", choices=("float32", "float16")
    )
    batch_norm_epsilon: float = setting("added to the variance in BatchNorm", above=0)
    batch_norm_momentum: float = setting(
        "share of the old running statistics kept per step", minimum=0, maximum=1
    )
    extra_channels: Optional[Tuple[Tuple[int, int], ...]] = setting(
        "per extra block: channels of its 1x1 and of its 3x3 convolution; empty: computed from the "
        "image's size",
        flag=False,
        only=("model.features", EXTRA_BLOCKS),
    )
    extra_strides: Optional[Tuple[int, ...]] = setting(
        "per extra block: stride of its 3x3 convolution; empty: computed from the image's size",
        flag=False,
        only=("model.features", EXTRA_BLOCKS),
    )
    extra_pads: Optional[Tuple[int, ...]] = setting(
        "per extra block: padding of its 3x3 convolution; empty: computed from the image's size",
        flag=False,
        only=("model.features", EXTRA_BLOCKS),
    )


@dataclass(frozen=True)
class DefaultBoxConfig:
    """Default boxes, their matching to ground truth, and the scale of encoded offsets."""

    rule: str = setting(
        "how default boxes follow from the feature maps",
        choices=BOX_RULES,
        flag=False,
        before="ssd",
    )
    matching: str = setting(
        "how default boxes are matched to ground truth", choices=MATCHERS, flag=False, before="ssd"
    )
    steps: Optional[Tuple[float, ...]] = setting(
        "per feature map: distance of neighbouring centres [pixels]; empty: computed from the "
        "image's size",
        flag=False,
        only=("default_boxes.rule", SSD_RULES),
    )
    scales: Optional[Tuple[float, ...]] = setting(
        "per feature map and one more: side of the square box [pixels]; empty: computed from the "
        "image's size",
        flag=False,
        only=("default_boxes.rule", SSD_RULES),
    )
    aspect_ratios: Optional[Tuple[Tuple[float, ...], ...]] = setting(
        "per feature map: ratios a; each gives a box a:1 and a box 1:a; empty: computed from the "
        "image's size",
        flag=False,
        only=("default_boxes.rule", SSD_RULES),
    )
    anchor_sizes: Optional[Tuple[int, ...]] = setting(
        "per feature map: side of its smallest square anchor [pixels]",
        above=0,
        flag=False,
        only=("default_boxes.rule", ("retinanet",)),
    )
    anchors_per_octave: Optional[int] = setting(
        "anchors of one ratio at a cell, from one size to less than twice it",
        minimum=1,
        flag=False,
        only=("default_boxes.rule", ("retinanet", "pyramid")),
    )
    anchor_ratios: Optional[Tuple[float, ...]] = setting(
        "height / width of the anchors",
        above=0,
        flag=False,
        only=("default_boxes.rule", ("retinanet", "pyramid")),
    )
    center_variance: float = setting("unit of encoded centre offsets", above=0)
    size_variance: float = setting("unit of encoded log sizes", above=0)
    matching_iou: float = setting(
        "a default box is positive above this IoU (retinanet: at least this IoU)",
        above=0,
        maximum=1,
    )
    background_iou: Optional[float] = setting(
        "a default box is background below this IoU, and ignored between it and matching_iou",
        above=0,
        maximum=1,
        flag=False,
        only=("default_boxes.matching", ("retinanet",)),
    )


@dataclass(frozen=True)
class LossConfig:
    loss: str = setting(
        "cross-entropy of positives and hard negatives, with smooth L1 for the boxes; or the focal "
        "loss of all, with L1",
        choices=LOSSES,
        flag=False,
        before="hard_negatives",
    )
    negatives_per_positive: Optional[float] = setting(
        "hard negatives kept per positive box", minimum=0, only=("loss.loss", ("hard_negatives",))
    )
    focal_alpha: Optional[float] = setting(
        "weight of an object's class; 1 - this: of all other classes",
        minimum=0,
        maximum=1,
        only=("loss.loss", ("focal", "focal_batch")),
    )
    focal_gamma: Optional[float] = setting(
        "a class's loss is multiplied by its error to this power",
        minimum=0,
        only=("loss.loss", ("focal", "focal_batch")),
    )


@dataclass(frozen=True)
class DetectionConfig:
    """From the network's output to detections."""

    detections: str = setting(
        "how detections are chosen before suppression: the best of each class, or of each feature "
        "map",
        choices=DETECTIONS,
        flag=False,
        before="per_class",
    )
    score_threshold: float = setting(
        "boxes of at most this score are dropped", minimum=0, maximum=1
    )
    boxes_per_class: Optional[int] = setting(
        "best boxes of each class that enter suppression",
        minimum=1,
        only=("detection.detections", ("per_class", "per_class_sigmoid")),
    )
    kept_per_class: Optional[int] = setting(
        "best boxes of each class that are kept after suppression",
        minimum=1,
        only=("detection.detections", ("per_class_sigmoid",)),
    )
    candidates_per_map: Optional[int] = setting(
        "best pairs of box and class of each feature map that enter suppression",
        minimum=1,
        only=("detection.detections", ("per_level",)),
    )
    nms_iou: float = setting(
        "a box of at least this IoU (per_level: of more) with a better one of its class is dropped",
        above=0,
        maximum=1,
    )
    boxes_per_image: int = setting("best detections of an image that are kept", minimum=1)
