"""The settings of a run by section: name, type, unit, allowed values; ssd.model_sections has the
model's. ssd.config reads and checks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from ssd.rules import DEFAULT_RULES, RULES
from ssd.setting import setting

# As in ssd.model_sections; the tables are OPTIMIZERS in ssd.training.optimizer, and SCHEDULES and
# WARMUPS in ssd.training.schedule.
OPTIMIZERS = ("sgd", "nesterov", "momentum", "adam")
SCHEDULES = ("steps", "constant", "cosine")
WARMUPS = ("reference", "linear")


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of training images, in the order in which they are applied."""

    augment: bool = setting("apply the random changes of this section")
    crop_min_iou: Tuple[float, ...] = setting(
        "choices of the least IoU of a box with the crop (0: any); empty: no cropping",
        flag=False,
    )
    crop_scale: Tuple[float, float] = setting(
        "side of the crop, least and greatest share of the image's", flag=False
    )
    crop_aspect: Tuple[float, float] = setting(
        "aspect ratio of the crop, least and greatest", flag=False
    )
    crop_attempts: int = setting(
        "crops tried per choice (the log's max_samples; rules ssd-1.1.0: 1 or 50)", minimum=1
    )
    flip_probability: float = setting("probability of a horizontal flip", minimum=0, maximum=1)
    brightness: float = setting("brightness factor drawn from 1 +- this", minimum=0, maximum=1)
    contrast: float = setting("contrast factor drawn from 1 +- this", minimum=0, maximum=1)
    saturation: float = setting("saturation factor drawn from 1 +- this", minimum=0, maximum=1)
    hue: float = setting("hue turned by +- this [degrees]", minimum=0, maximum=180)

    @property
    def changes_colour(self) -> bool:
        """Whether the colours of training images are changed at all."""
        return self.augment and any((self.brightness, self.contrast, self.saturation, self.hue))


@dataclass(frozen=True)
class DataConfig:
    """The paths of the data set (COCO's folder layout) and how it is read."""

    train_annotations: str = setting("training annotations [file, relative to --data-dir]")
    train_images: str = setting("training images [folder, relative to --data-dir]")
    val_annotations: str = setting("validation annotations [file, relative to --data-dir]")
    val_images: str = setting("validation images [folder, relative to --data-dir]")
    pixel_mean: Tuple[float, float, float] = setting("mean of R, G, B [0..1]", flag=False)
    pixel_std: Tuple[float, float, float] = setting(
        "standard deviation of R, G, B [0..1]", flag=False
    )
    antialias: bool = setting(
        "widen the bilinear filter when images are shrunk, as Pillow does",
        flag=False,
        before=True,
    )
    train_crowds: bool = setting(
        "train on the boxes of groups too (iscrowd)", flag=False, before=True
    )
    decode: str = setting(
        "where JPEGs are decoded: cpu; gpu; cache = gpu, each image once, kept in GPU memory",
        choices=("cpu", "gpu", "cache"),
    )
    cache_size: int = setting("decoded-image cache per GPU, with --decode cache [MiB]", minimum=0)
    data_threads: int = setting(
        "CPU threads of the data pipeline per rank; besides, as many Python threads, up to 4",
        minimum=1,
    )
    prefetch: int = setting("batches that the data pipeline prepares ahead", minimum=1)
    check_images: str = setting(
        "how image files are checked before training: exists; header; decode them once",
        choices=("exists", "header", "decode"),
    )
    skip_bad_annotations: bool = setting(
        "leave out bad annotations and images instead of refusing the data set"
    )
    max_left_out: float = setting(
        "with --skip-bad-annotations: the largest share of images or boxes that may be left out "
        "[0..1]; 1: no limit, whatever the likely cause",
        minimum=0,
        maximum=1,
        before=0.5,
    )
    data_dir: str = setting("the data set [folder]", default="data/coco")
    cache_dir: str = setting(
        "folder for results of data set checks; default: in the user's cache folder",
        default="",
    )


@dataclass(frozen=True)
class TrainingConfig:
    """Batch, optimizer and learning rate. The formulas of each kind are in ssd.training.optimizer
    and .schedule."""

    batch_size: int = setting("images per rank and step", minimum=1)
    epochs: int = setting("epochs at most", minimum=1)
    optimizer: str = setting("optimizer", choices=OPTIMIZERS, flag=False, before="sgd")
    base_lr: float = setting("learning rate, per `lr_batch` images of the global batch", above=0)
    lr_batch: int = setting(
        "global batch at which the learning rate is base_lr [images]; 0: it is base_lr for every "
        "batch size",
        minimum=0,
    )
    momentum: Optional[float] = setting(
        "momentum",
        minimum=0,
        maximum=1,
        only=("training.optimizer", ("sgd", "nesterov", "momentum")),
    )
    adam_betas: Optional[Tuple[float, float]] = setting(
        "share of the old mean and of the old variance of the gradient kept per step",
        minimum=0,
        maximum=1,
        flag=False,
        only=("training.optimizer", ("adam",)),
    )
    adam_epsilon: Optional[float] = setting(
        "added to the root of the variance, after bias correction",
        above=0,
        flag=False,
        only=("training.optimizer", ("adam",)),
    )
    weight_decay: float = setting("weight decay", minimum=0)
    decay_norms: bool = setting(
        "apply weight decay to BatchNorm's scale and shift too", flag=False, before=True
    )
    warmup: str = setting(
        "how the learning rate rises over the first epochs",
        choices=WARMUPS,
        flag=False,
        before="reference",
    )
    warmup_epochs: float = setting("linear warm-up [epochs]", minimum=0)
    warmup_factor: Optional[float] = setting(
        "warm-up starts at (1 - 2^-this) of the full rate (linear: at this share of it)",
        minimum=0,
        only=("training.warmup", ("reference", "linear")),
    )
    schedule: str = setting(
        "how the learning rate falls", choices=SCHEDULES, flag=False, before="steps"
    )
    decay_epochs: Optional[Tuple[int, ...]] = setting(
        "the rate is multiplied after each of these epochs [epochs]",
        only=("training.schedule", ("steps",)),
    )
    decay_factor: Optional[float] = setting(
        "factor on the rate at each decay",
        above=0,
        maximum=1,
        only=("training.schedule", ("steps",)),
    )
    final_factor: Optional[float] = setting(
        "share of the rate at the end",
        minimum=0,
        maximum=1,
        only=("training.schedule", ("cosine",)),
    )
    loss_scale: float = setting("first factor on the loss before backward, with float16", above=0)
    loss_scale_window: int = setting(
        "steps without an overflow after which the loss scale doubles; an overflow skips the step "
        "and halves it (0: the scale is constant, an overflow ends the run)",
        minimum=0,
    )
    batch_norm_ranks: int = setting(
        "ranks whose batches BatchNorm normalises together: groups of neighbouring ranks; 1: each "
        "its own",
        minimum=1,
        before=1,
        default=1,
    )


@dataclass(frozen=True)
class EvaluationConfig:
    target: float = setting("training stops at this mAP [0..1]", minimum=0, maximum=1)
    eval_every: int = setting("epochs between evaluations; the first is after this many", minimum=1)
    eval_batch_size: int = setting("images per rank and evaluation step", minimum=1)


@dataclass(frozen=True)
class RunConfig:
    """Settings of a single run that do not change the intended result."""

    seed: int = setting(
        "seed of everything random; -1: drawn at start and logged",
        minimum=-1,
        maximum=2**31 - 1,
        default=-1,
    )
    device: str = setting(
        "where the network runs; auto: gpu if there is one",
        choices=("auto", "cpu", "gpu"),
        default="auto",
    )
    batch_norm_exchange: str = setting(
        "how --batch-norm-ranks works: auto: by MXNet's operator if it has one (NVIDIA's has), "
        "else by Horovod",
        choices=("auto", "horovod"),
        default="auto",
    )
    output: str = setting("folder of the run, new or empty; default: runs/RECIPE-TIME", default="")
    pretrained_backbone: str = setting(
        "ImageNet weights of the backbone [ONNX file]; default: random", default=""
    )
    weights: str = setting(
        "start from these weights of the complete network [.params file, or a checkpoint's "
        "parameters.npz]",
        default="",
    )
    fine_tune: bool = setting(
        "accept --weights of other classes or another image size: what fits is used, the rest is "
        "initialised, and the log is for the open division",
        default=False,
    )
    log_interval: int = setting(
        "steps between progress lines, at which the loss is read", minimum=1, default=20
    )
    progress: str = setting(
        "progress of training: live display; plain lines; auto: live on a terminal",
        choices=("auto", "plain", "live"),
        default="auto",
    )
    tensorboard: bool = setting(
        "write TensorBoard events to the run's folder (needs tensorboardX)", default=False
    )
    report: bool = setting(
        "draw curves.png and write report.html when the run has ended", default=True
    )
    max_steps: int = setting(
        "end after this many steps, 0: no limit (for trials)", minimum=0, default=0
    )
    clear_cache: bool = setting("drop the file cache before the run and log it", default=False)
    cache_cleared: bool = setting(
        "log that the launcher has dropped every node's file cache before the run", default=False
    )
    rules: str = setting(
        "MLPerf rule set of the log; none: no benchmark, the log is not checked",
        choices=tuple(RULES),
        default=DEFAULT_RULES,
    )
    submission_org: str = setting("organisation in the MLPerf log", default="unnamed")
    submission_platform: str = setting("system in the MLPerf log", default="unnamed")
    submission_division: str = setting(
        "division in the MLPerf log", choices=("closed", "open"), default="closed"
    )
    submission_status: str = setting(
        "status in the MLPerf log",
        default="onprem",
        choices=("cloud", "onprem", "preview", "research"),
    )


@dataclass(frozen=True)
class RecoveryConfig:
    """Checkpoints, and when a failed run is ended."""

    save_interval: str = setting(
        "interval of checkpoints, which are also saved at each evaluation: 100steps, 2epochs, "
        "10minutes; never saves none",
        default="5epochs",
    )
    keep_checkpoints: int = setting(
        "newest checkpoints that are kept, besides the best", minimum=1, default=2
    )
    resume: str = setting(
        "continue from a checkpoint or a run's newest one [folder]; auto: from the newest one in "
        "--output, from the start if there is none",
        default="",
    )
    allow_changed_recipe: bool = setting(
        "let --resume continue with settings other than the checkpoint's", default=False
    )
    check_finite_every: int = setting(
        "steps between checks that loss and gradients are finite, made before the update; 0: every "
        "step on a CPU, every --log-interval steps on a GPU, which a check keeps waiting; a loss "
        "scale that changes is checked at every step",
        minimum=0,
        default=0,
    )
    rank_timeout: float = setting(
        "a rank without a sign of life for so long ends the run [seconds]; one that makes no "
        "progress, after ten times as long",
        above=0,
        default=60.0,
    )
