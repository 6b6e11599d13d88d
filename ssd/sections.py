"""The settings of a run by section: name, type, unit, allowed values. ssd.config reads and checks them."""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple, Optional, Tuple

from ssd.rules import DEFAULT_RULES, RULES


# The kinds that a setting can choose, in the order in which help texts list them. The code of each kind is in a table
# with these keys: ssd.model.detector's BACKBONES to DETECTIONS, ssd.training.optimizer.OPTIMIZERS,
# ssd.training.schedule.SCHEDULES and WARMUPS.
BACKBONES = ("resnet34", "resnet50", "resnext50_32x4d", "mobilenet_v2", "mobilenet_v3_large")
FEATURES = ("plain_blocks", "batch_norm_blocks", "ssdlite_blocks", "mobile_blocks", "pyramid", "norm_pyramid")
HEADS = ("fused", "separable", "shared", "shared_norm")
BOX_RULES = ("ssd", "mobile", "retinanet", "pyramid")
MATCHERS = ("ssd", "mindcv", "retinanet")
LOSSES = ("hard_negatives", "focal", "focal_batch")
DETECTIONS = ("per_class", "per_class_sigmoid", "per_level")
OPTIMIZERS = ("sgd", "nesterov", "momentum", "adam")
SCHEDULES = ("steps", "constant", "cosine")
WARMUPS = ("reference", "linear")

# Features that work on three maps of a whole backbone, an eighth to a 32nd of the image's sides; the others on one.
PYRAMIDS = ("pyramid", "norm_pyramid")
MOBILE_BLOCKS = ("ssdlite_blocks", "mobile_blocks")    # on two maps, a 16th and a 32nd
EXTRA_BLOCKS = ("plain_blocks", "batch_norm_blocks", *MOBILE_BLOCKS)
SSD_RULES = ("ssd", "mobile")


SMALLEST, LARGEST = 32, 4096    # sides of an image [pixels]; below there are no three feature maps


class ImageSize(NamedTuple):
    """Of the network's input [pixels]."""
    height: int
    width: int

    @property
    def plain(self):
        """As a recipe has it: one number for a square, else 'HEIGHTxWIDTH'."""
        return self.height if self.height == self.width else f"{self.height}x{self.width}"

    def __str__(self):
        return str(self.plain)


def _setting(help: str, *, choices=None, minimum=None, above=None, maximum=None, flag=True, only=None, before=None,
             **default):
    """A field with its help text (with the unit), its allowed values, and whether it has a flag of its own.

    only: ("section.name" of the setting that chooses a kind, the kinds that use this setting). The field is Optional,
    and None with every other kind. before: what runs did before the setting existed; it completes saved recipes and
    checkpoints of that time.
    """
    return dataclasses.field(metadata=dict(help=help, choices=choices, minimum=minimum, above=above, maximum=maximum,
                                           flag=flag, only=only, before=before), **default)


@dataclass(frozen=True)
class ModelConfig:
    """What the network is. Channel counts are those of the full network; `width` scales them all."""
    detector: str = _setting("detector family", choices=("ssd", "retinanet"))
    backbone: str = _setting("backbone", choices=BACKBONES)
    frozen_stages: int = _setting("of the backbone, the stem (1) and stages (from 2 on) that are not trained, their "
                                  "BatchNorm included; 0: all is trained", minimum=0, flag=False, before=0)
    batch_norm: str = _setting("BatchNorm of the whole network: trained, or frozen at the values of the backbone's "
                               "weights", choices=("trained", "frozen"), flag=False, before="trained")
    features: str = _setting("what follows the backbone: convolutions alone, each with BatchNorm, or a feature pyramid",
                             choices=FEATURES, flag=False, before="plain_blocks")
    pyramid_channels: Optional[int] = _setting("channels of every map of the pyramid", minimum=1, flag=False,
                                               only=("model.features", PYRAMIDS))
    head: str = _setting("how offsets and class logits are predicted: by a convolution on each map, softmax over the "
                         "classes and the background; or by towers that all maps share, a sigmoid per class",
                         choices=HEADS, flag=False, before="fused")
    head_kernel: Optional[int] = _setting("side of the head's convolutions [cells]", choices=(1, 3, 5), flag=False,
                                          before=3, only=("model.head", ("fused",)))
    tower_convolutions: Optional[int] = _setting("convolutions in each tower of the head, before its last one",
                                                 minimum=0, flag=False, only=("model.head", ("shared", "shared_norm")))
    prior: Optional[float] = _setting("score of every class before training", above=0, maximum=1, flag=False,
                                      only=("model.head", ("shared",)))
    width: float = _setting("factor on every channel count of backbone and extra features", above=0, maximum=4)
    image_size: ImageSize = _setting("size of the input [pixels]: one number for a square, or HEIGHTxWIDTH; feature "
                                     "maps and default boxes follow from it", minimum=SMALLEST, maximum=LARGEST)
    num_classes: int = _setting("classes, background included; 0: counted from the training annotations", minimum=0)
    own_norm_epsilon: Optional[float] = _setting(
        "the same in the BatchNorm of extra features and heads", above=0, flag=False,
        only=("model.features", (*MOBILE_BLOCKS, "norm_pyramid")))
    own_norm_momentum: Optional[float] = _setting(
        "the same in the BatchNorm of extra features and heads", minimum=0, maximum=1, flag=False,
        only=("model.features", (*MOBILE_BLOCKS, "norm_pyramid")))
    detach_first_map: Optional[bool] = _setting("the first head sends no gradient into the backbone", flag=False,
                                                only=("model.features", MOBILE_BLOCKS))
    tap_channels: Optional[int] = _setting("channels of the 1x1 convolution on the backbone's first map", minimum=1,
                                           flag=False, only=("model.features", ("mobile_blocks",)))
    tap_own_norm: Optional[bool] = _setting("its BatchNorm is as those of extra features and heads, not the backbone's",
                                            flag=False, only=("model.features", ("mobile_blocks",)))
    head_depthwise_bias: Optional[bool] = _setting("the head's depthwise convolutions have a bias", flag=False,
                                                   only=("model.head", ("separable",)))
    initial: str = _setting("how the weights of extra features and heads are drawn: Xavier uniform, or normal and cut "
                            "at two deviations", choices=("xavier", "truncated_normal"), flag=False, before="xavier")
    layout: str = _setting("memory layout of activations (NHWC needs a GPU)", choices=("NCHW", "NHWC"))
    dtype: str = _setting("type of weights and activations (float16 needs a GPU)", choices=("float32", "float16"))
    batch_norm_epsilon: float = _setting("added to the variance in BatchNorm", above=0)
    batch_norm_momentum: float = _setting("share of the old running statistics kept per step", minimum=0, maximum=1)
    extra_channels: Optional[Tuple[Tuple[int, int], ...]] = _setting(
        "per extra block: channels of its 1x1 and of its 3x3 convolution; empty: as the image's size asks", flag=False,
        only=("model.features", EXTRA_BLOCKS))
    extra_strides: Optional[Tuple[int, ...]] = _setting(
        "per extra block: stride of its 3x3 convolution; empty: as the image's size asks", flag=False,
        only=("model.features", EXTRA_BLOCKS))
    extra_pads: Optional[Tuple[int, ...]] = _setting(
        "per extra block: padding of its 3x3 convolution; empty: as the image's size asks", flag=False,
        only=("model.features", EXTRA_BLOCKS))


@dataclass(frozen=True)
class DefaultBoxConfig:
    """Default boxes, their matching to ground truth, and the scale of encoded offsets."""
    rule: str = _setting("how default boxes follow from the feature maps", choices=BOX_RULES, flag=False, before="ssd")
    matching: str = _setting("how default boxes are matched to ground truth", choices=MATCHERS, flag=False,
                             before="ssd")
    steps: Optional[Tuple[float, ...]] = _setting(
        "per feature map: distance of neighbouring centres [pixels]; empty: as the image's size asks", flag=False,
        only=("default_boxes.rule", SSD_RULES))
    scales: Optional[Tuple[float, ...]] = _setting(
        "per feature map and one more: side of the square box [pixels]; empty: as the image's size asks", flag=False,
        only=("default_boxes.rule", SSD_RULES))
    aspect_ratios: Optional[Tuple[Tuple[float, ...], ...]] = _setting(
        "per feature map: ratios a; each gives a box a:1 and a box 1:a; empty: as the image's size asks", flag=False,
        only=("default_boxes.rule", SSD_RULES))
    anchor_sizes: Optional[Tuple[int, ...]] = _setting(
        "per feature map: side of its smallest square anchor [pixels]", above=0, flag=False,
        only=("default_boxes.rule", ("retinanet",)))
    anchors_per_octave: Optional[int] = _setting("anchors of one ratio at a cell, from one size to less than twice it",
                                                 minimum=1, flag=False,
                                                 only=("default_boxes.rule", ("retinanet", "pyramid")))
    anchor_ratios: Optional[Tuple[float, ...]] = _setting("height / width of the anchors", above=0, flag=False,
                                                          only=("default_boxes.rule", ("retinanet", "pyramid")))
    center_variance: float = _setting("unit of encoded centre offsets", above=0)
    size_variance: float = _setting("unit of encoded log sizes", above=0)
    matching_iou: float = _setting("a default box is positive above this IoU (retinanet: from it on)", above=0,
                                   maximum=1)
    background_iou: Optional[float] = _setting(
        "a default box is background below this IoU, and ignored between the two", above=0, maximum=1, flag=False,
        only=("default_boxes.matching", ("retinanet",)))


@dataclass(frozen=True)
class LossConfig:
    loss: str = _setting("cross-entropy of positives and hard negatives, with smooth L1 for the boxes; or the focal "
                         "loss of all, with L1", choices=LOSSES, flag=False, before="hard_negatives")
    negatives_per_positive: Optional[float] = _setting("hard negatives kept per positive box", minimum=0,
                                                       only=("loss.loss", ("hard_negatives",)))
    focal_alpha: Optional[float] = _setting("weight of an object's class; 1 - this: of all other classes", minimum=0,
                                            maximum=1, only=("loss.loss", ("focal", "focal_batch")))
    focal_gamma: Optional[float] = _setting("power of its error that a class's loss is multiplied by", minimum=0,
                                            only=("loss.loss", ("focal", "focal_batch")))


@dataclass(frozen=True)
class DetectionConfig:
    """From the network's output to detections."""
    detections: str = _setting("how detections are chosen before suppression: the best of each class, or of each "
                               "feature map", choices=DETECTIONS, flag=False, before="per_class")
    score_threshold: float = _setting("boxes of at most this score are dropped", minimum=0, maximum=1)
    boxes_per_class: Optional[int] = _setting("best boxes of each class that enter suppression", minimum=1,
                                              only=("detection.detections", ("per_class", "per_class_sigmoid")))
    kept_per_class: Optional[int] = _setting("best boxes of each class that suppression leaves", minimum=1,
                                             only=("detection.detections", ("per_class_sigmoid",)))
    candidates_per_map: Optional[int] = _setting("best pairs of box and class of each feature map that enter "
                                                 "suppression", minimum=1,
                                                 only=("detection.detections", ("per_level",)))
    nms_iou: float = _setting("a box of at least this IoU (per_level: of more) with a better one of its class is "
                              "dropped", above=0, maximum=1)
    boxes_per_image: int = _setting("best detections of an image that are kept", minimum=1)


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of training images, in the order in which they are applied."""
    augment: bool = _setting("apply the random changes of this section at all")
    crop_min_iou: Tuple[float, ...] = _setting("choices of the least IoU of a box with the crop (0: any); none: images "
                                               "are not cropped", flag=False)
    crop_scale: Tuple[float, float] = _setting("side of the crop, least and greatest share of the image's", flag=False)
    crop_aspect: Tuple[float, float] = _setting("aspect ratio of the crop, least and greatest", flag=False)
    crop_attempts: int = _setting("crops tried per choice (the log's max_samples; rules ssd-1.1.0: 1 or 50)", minimum=1)
    flip_probability: float = _setting("probability of a horizontal flip", minimum=0, maximum=1)
    brightness: float = _setting("brightness factor drawn from 1 +- this", minimum=0, maximum=1)
    contrast: float = _setting("contrast factor drawn from 1 +- this", minimum=0, maximum=1)
    saturation: float = _setting("saturation factor drawn from 1 +- this", minimum=0, maximum=1)
    hue: float = _setting("hue turned by +- this [degrees]", minimum=0, maximum=180)

    @property
    def changes_colour(self) -> bool:
        """Whether the colours of training images are changed at all."""
        return self.augment and any((self.brightness, self.contrast, self.saturation, self.hue))


@dataclass(frozen=True)
class DataConfig:
    """Where the data set lies (COCO's folder layout) and how it is read."""
    train_annotations: str = _setting("training annotations [file, relative to --data-dir]")
    train_images: str = _setting("training images [folder, relative to --data-dir]")
    val_annotations: str = _setting("validation annotations [file, relative to --data-dir]")
    val_images: str = _setting("validation images [folder, relative to --data-dir]")
    pixel_mean: Tuple[float, float, float] = _setting("mean of R, G, B [0..1]", flag=False)
    pixel_std: Tuple[float, float, float] = _setting("standard deviation of R, G, B [0..1]", flag=False)
    antialias: bool = _setting("the bilinear filter that shrinks images is widened, as Pillow's is", flag=False,
                               before=True)
    train_crowds: bool = _setting("train on the boxes of groups too (iscrowd)", flag=False, before=True)
    decode: str = _setting("where JPEGs are decoded: cpu; gpu; cache = gpu, each image once, kept in GPU memory",
                           choices=("cpu", "gpu", "cache"))
    cache_size: int = _setting("decoded-image cache per GPU, with --decode cache [MiB]", minimum=0)
    data_threads: int = _setting("CPU threads of the data pipeline per rank; beside them Python's, as many up to 4",
                                 minimum=1)
    prefetch: int = _setting("batches the data pipeline works ahead", minimum=1)
    check_images: str = _setting("how image files are checked before training: exists; header; decode them once",
                                 choices=("exists", "header", "decode"))
    skip_bad_annotations: bool = _setting("leave out bad annotations and images instead of refusing the data set")
    max_left_out: float = _setting("with --skip-bad-annotations: the largest share of images or boxes that may be left "
                                   "out [0..1]; 1: whatever the likely cause", minimum=0, maximum=1, before=0.5)
    data_dir: str = _setting("the data set [folder]", default="data/coco")
    cache_dir: str = _setting("results of data set checks are kept here [folder]; default: the user's cache folder",
                              default="")


@dataclass(frozen=True)
class TrainingConfig:
    """Batch, optimizer and learning rate. The formulas of each kind are in ssd.training.optimizer and .schedule."""
    batch_size: int = _setting("images per rank and step", minimum=1)
    epochs: int = _setting("epochs at most", minimum=1)
    optimizer: str = _setting("optimizer", choices=OPTIMIZERS, flag=False, before="sgd")
    base_lr: float = _setting("learning rate, per `lr_batch` images of the global batch", above=0)
    lr_batch: int = _setting("global batch at which the learning rate is base_lr [images]; 0: it is base_lr whatever "
                             "the batch", minimum=0)
    momentum: Optional[float] = _setting("momentum", minimum=0, maximum=1,
                                         only=("training.optimizer", ("sgd", "nesterov", "momentum")))
    adam_betas: Optional[Tuple[float, float]] = _setting(
        "share of the old mean and of the old variance of the gradient kept per step", minimum=0, maximum=1, flag=False,
        only=("training.optimizer", ("adam",)))
    adam_epsilon: Optional[float] = _setting("added to the root of the variance, after bias correction", above=0,
                                             flag=False, only=("training.optimizer", ("adam",)))
    weight_decay: float = _setting("weight decay", minimum=0)
    decay_norms: bool = _setting("it is on BatchNorm's scale and shift too", flag=False, before=True)
    warmup: str = _setting("how the learning rate rises over the first epochs", choices=WARMUPS, flag=False,
                           before="reference")
    warmup_epochs: float = _setting("linear warm-up [epochs]", minimum=0)
    warmup_factor: Optional[float] = _setting("warm-up starts at (1 - 2^-this) of the full rate (linear: at this share "
                                              "of it)", minimum=0,
                                              only=("training.warmup", ("reference", "linear")))
    schedule: str = _setting("how the learning rate falls", choices=SCHEDULES, flag=False, before="steps")
    decay_epochs: Optional[Tuple[int, ...]] = _setting(
        "the rate is multiplied after each of these epochs [epochs]", only=("training.schedule", ("steps",)))
    decay_factor: Optional[float] = _setting("factor on the rate at each decay", above=0, maximum=1,
                                             only=("training.schedule", ("steps",)))
    final_factor: Optional[float] = _setting("share of the rate that is left at the end", minimum=0, maximum=1,
                                             only=("training.schedule", ("cosine",)))
    loss_scale: float = _setting("first factor on the loss before backward, with float16", above=0)
    loss_scale_window: int = _setting("steps in a row without an overflow that double the loss scale; an overflow "
                                      "skips the step and halves it (0: the scale stays, an overflow ends the run)",
                                      minimum=0)
    batch_norm_ranks: int = _setting("ranks whose batches BatchNorm normalises together: groups of so many neighbours; "
                                     "1: each its own", minimum=1, before=1, default=1)


@dataclass(frozen=True)
class EvaluationConfig:
    target: float = _setting("training stops at this mAP [0..1]", minimum=0, maximum=1)
    eval_every: int = _setting("epochs between evaluations, the first after as many", minimum=1)
    eval_batch_size: int = _setting("images per rank and evaluation step", minimum=1)


@dataclass(frozen=True)
class RunConfig:
    """What changes from run to run but not the result that is sought."""
    seed: int = _setting("seed of everything random; -1: drawn at start and logged",
                         minimum=-1, maximum=2 ** 31 - 1, default=-1)
    device: str = _setting("where the network runs; auto: gpu where there is one",
                           choices=("auto", "cpu", "gpu"), default="auto")
    batch_norm_exchange: str = _setting(
        "how --batch-norm-ranks works: auto: by MXNet's own operator where it has one (NVIDIA's has), else by Horovod",
        choices=("auto", "horovod"), default="auto")
    output: str = _setting("folder of the run, new or empty; default: runs/RECIPE-TIME", default="")
    pretrained_backbone: str = _setting("ImageNet weights of the backbone [ONNX file]; default: random", default="")
    weights: str = _setting("start from these weights of the whole network [.params file, or a "
                            "checkpoint's parameters.npz]", default="")
    fine_tune: bool = _setting("let --weights be those of other classes or another image size: what fits is taken, "
                               "the rest starts anew, and the log goes to the open division", default=False)
    log_interval: int = _setting("steps between progress lines; the loss is read as often", minimum=1, default=20)
    progress: str = _setting("progress of training: live display; plain lines; auto: live on a terminal",
                             choices=("auto", "plain", "live"), default="auto")
    tensorboard: bool = _setting("write TensorBoard events to the run's folder (needs tensorboardX)", default=False)
    report: bool = _setting("draw curves.png and write report.html when the run has ended", default=True)
    max_steps: int = _setting("end after so many steps, 0: no limit (for trials)", minimum=0, default=0)
    clear_cache: bool = _setting("drop the file cache before the run and log it", default=False)
    cache_cleared: bool = _setting("log that the launcher has dropped every node's file cache before the run",
                                   default=False)
    rules: str = _setting("rule set of MLPerf that the log is for; none: no benchmark, the log is not checked",
                          choices=tuple(RULES), default=DEFAULT_RULES)
    submission_org: str = _setting("organisation in the MLPerf log", default="unnamed")
    submission_platform: str = _setting("system in the MLPerf log", default="unnamed")
    submission_division: str = _setting("division in the MLPerf log", choices=("closed", "open"), default="closed")
    submission_status: str = _setting("status in the MLPerf log", default="onprem",
                                      choices=("cloud", "onprem", "preview", "research"))


@dataclass(frozen=True)
class RecoveryConfig:
    """Checkpoints, and when a run that has gone wrong is ended."""
    save_interval: str = _setting("save a checkpoint every so often, and at each evaluation: 100steps, 2epochs, "
                                  "10minutes; never saves none", default="5epochs")
    keep_checkpoints: int = _setting("newest checkpoints kept, besides the best", minimum=1, default=2)
    resume: str = _setting("go on from a checkpoint or a run's newest one [folder]; auto: from the newest one in "
                           "--output, from the start if there is none", default="")
    allow_changed_recipe: bool = _setting("let --resume go on with other settings than the checkpoint's",
                                          default=False)
    check_finite_every: int = _setting("steps between checks that loss and gradients are finite, made before the "
                                       "update; 0: every step on a CPU, every --log-interval steps on a GPU, which a "
                                       "check keeps waiting; a loss scale that changes is checked at every step",
                                       minimum=0, default=0)
    rank_timeout: float = _setting("a rank without a sign of life for so long ends the run [seconds]; one that "
                                   "makes no progress, after ten times as long", above=0, default=60.0)
