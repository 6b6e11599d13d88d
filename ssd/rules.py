"""What the rule set of a benchmark asks of a run's log: one row each, chosen by the setting
run.rules.

The values of a row are those of mlperf_logging/compliance_checker/training_RULESET (common.yaml,
closed_common.yaml and closed_BENCHMARK.yaml) and of mlperf_logging/benchmark_meta.py in the package
mlperf-logging.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Dict, Optional, Tuple

DEFAULT_RULES = "ssd-1.1.0"


@dataclass(frozen=True)
class Rules:
    """One rule set. The defaults ask for nothing."""

    benchmark: str  # its name in the log, of result folders and of convergence points
    ruleset: Optional[str] = None  # what the official checkers call the rules; None: they know none
    target: Optional[float] = None  # least score that a run must reach: COCO's AP as a fraction
    runs: int = 0  # of a submission
    # Keys of the log and the kind of their values (int, float, str or list), in the order in which
    # they are logged. All runs of a submission have the same values. None: any keys, each value as
    # it is.
    hyperparameters: Optional[Dict[str, type]] = None
    # Which tensors are logged as initialised, and their names. "network": every tensor that is
    # trained, by our name. "reference": weights and biases of every convolution, frozen ones too,
    # by the PyTorch reference's name.
    weights_initialization: str = "network"
    # Values that the rules allow for a setting, by 'section.name'; others are refused.
    allowed: Dict[str, Tuple[Any, ...]] = field(default_factory=dict)
    # The closed division: the recipe whose settings it fixes, but for those in `free`
    # ('section.name'). A run with others is of the open division. None: run.submission_division is
    # taken at its word.
    closed_recipe: Optional[str] = None
    free: Tuple[str, ...] = ()
    # What gets the data set (words) and the weights to begin with, as lines of a shell script.
    data_set: str = ""
    downloads: Tuple[str, ...] = ()


RULES: Dict[str, Rules] = {
    "ssd-1.1.0": Rules(
        benchmark="ssd",
        ruleset="1.1.0",
        target=0.23,
        runs=5,
        hyperparameters={
            "train_samples": int,  # images trained on: those with a box
            "eval_samples": int,  # images evaluated: all
            "global_batch_size": int,  # images per step over all ranks
            "gradient_accumulation_steps": int,
            "model_bn_span": int,  # images that share the statistics of a BatchNorm
            "max_samples": int,  # attempts at each random crop: 1 or 50
            "opt_learning_rate_warmup_steps": int,  # steps, at least 1
            "opt_base_learning_rate": float,  # the scaled one: base * global batch / 32
            "opt_weight_decay": float,
            "opt_learning_rate_warmup_factor": float,
            "opt_learning_rate_decay_boundary_epochs": list,
        },  # [40, 50] * (1 + k/10), k a whole number
        allowed={"model.detector": ("ssd",), "augmentation.crop_attempts": (1, 50)},
        data_set="COCO 2017",
        downloads=(
            './scripts/download_coco2017.sh "${DATADIR:?}"',
            './scripts/get_resnet34_backbone.sh "${PRETRAINED_DIR:?}"',
        ),
    ),
}

# RetinaNet, of rounds 2.0 to 5.1. Every round is given all that any of them asks for, which each of
# them accepts: some want the names of the submitter (not 5.0), a status (up to 4.0) or the
# initialised tensors (up to 2.1).
_RETINANET = Rules(
    benchmark="retinanet",
    target=0.34,
    runs=5,
    hyperparameters={
        "train_samples": int,  # images: the reference and most submissions logged batches
        "eval_samples": int,
        "global_batch_size": int,
        "gradient_accumulation_steps": int,
        "opt_name": str,  # adam
        "opt_base_learning_rate": float,  # the actual one, whatever the batch
        "opt_weight_decay": float,  # 0
        "opt_learning_rate_warmup_epochs": float,  # 0 or more; whole in the closed division
        "opt_learning_rate_warmup_factor": float,
    },  # share of the rate that the first step has
    weights_initialization="reference",
    allowed={"model.detector": ("retinanet",)},
    closed_recipe="retinanet-resnext50-openimages",
    # The rules leave batch, learning rate and warm-up to the submitter; the others do not change
    # what is computed.
    free=(
        "training.batch_size",
        "training.epochs",
        "training.base_lr",
        "training.warmup_epochs",
        "training.warmup_factor",
        "training.loss_scale",
        "training.loss_scale_window",
        "model.layout",
        "model.dtype",
        "evaluation.eval_batch_size",
        "data.train_annotations",
        "data.train_images",
        "data.val_annotations",
        "data.val_images",
        "data.decode",
        "data.cache_size",
        "data.data_threads",
        "data.prefetch",
        "data.check_images",
        "data.skip_bad_annotations",
        "data.data_dir",
        "data.cache_dir",
    ),
    data_set="the MLPerf subset of Open Images",
    downloads=(
        './scripts/download_openimages.py "${DATADIR:?}"',
        './scripts/get_backbone.sh resnext50_32x4d "${PRETRAINED_DIR:?}"',
    ),
)
_RETINANET_NAMES = {
    **dict.fromkeys(("2.0.0", "2.1.0", "3.0.0", "3.1.0", "4.0.0", "4.1.0"), "ssd"),
    **dict.fromkeys(("5.0.0", "5.1.0"), "retinanet"),
}
RULES.update(
    (f"retinanet-{ruleset}", replace(_RETINANET, benchmark=name, ruleset=ruleset))
    for ruleset, name in _RETINANET_NAMES.items()
)

# No benchmark: own data sets and other detectors. The same events, unchecked.
RULES["none"] = Rules(benchmark="ssd")
