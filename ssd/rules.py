"""The rule sets of the benchmarks, chosen by the setting run.rules: what each requires of a run's
log.

The values come from mlperf_logging/compliance_checker/training_RULESET (common.yaml,
closed_common.yaml and closed_BENCHMARK.yaml) and mlperf_logging/benchmark_meta.py in the package
mlperf-logging.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Dict, Optional, Tuple

DEFAULT_RULES = "ssd-1.1.0"


@dataclass(frozen=True)
class Rules:
    """One rule set. The defaults require nothing."""

    benchmark: str  # its name in the log, in result folders and for convergence points
    ruleset: Optional[str] = None  # the official checkers' name for the rules; None: no checker
    target: Optional[float] = None  # the score that a run must reach: COCO's AP as a fraction
    runs: int = 0  # number in a submission
    # Keys of the log and the types of their values (int, float, str or list), in the order of
    # logging. All runs of a submission have the same values. None: any keys and values.
    hyperparameters: Optional[Dict[str, type]] = None
    # The tensors that are logged as initialised. "network": every trained tensor, by our name.
    # "reference": weights and biases of every convolution, even frozen ones, by the PyTorch
    # reference's name.
    weights_initialization: str = "network"
    # Values that the rules allow for a setting, by 'section.name'; others are refused.
    allowed: Dict[str, Tuple[Any, ...]] = field(default_factory=dict)
    # The recipe whose settings the closed division fixes, except those in `free` ('section.name').
    # A run with other settings belongs to the open division. None: run.submission_division decides.
    closed_recipe: Optional[str] = None
    free: Tuple[str, ...] = ()
    # The name of the data set, and the lines of a shell script that download it and the initial
    # weights.
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
            "opt_base_learning_rate": float,  # scaled: base * global batch / 32
            "opt_weight_decay": float,
            "opt_learning_rate_warmup_factor": float,
            "opt_learning_rate_decay_boundary_epochs": list,  # [40, 50] * (1 + k/10), k an integer
        },
        allowed={"model.detector": ("ssd",), "augmentation.crop_attempts": (1, 50)},
        data_set="COCO 2017",
        downloads=(
            './scripts/download_coco2017.sh "${DATADIR:?}"',
            './scripts/get_resnet34_backbone.sh "${PRETRAINED_DIR:?}"',
        ),
    ),
}

# RetinaNet in rounds 2.0 to 5.1. We log everything that any round requires, which all of them
# accept: some require the names of the submitter (not 5.0), a status (up to 4.0) or the initialised
# tensors (up to 2.1).
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
        "opt_base_learning_rate": float,  # not scaled by the batch
        "opt_weight_decay": float,  # 0
        "opt_learning_rate_warmup_epochs": float,  # 0 or more; an integer in the closed division
        "opt_learning_rate_warmup_factor": float,  # share of the rate at the first step
    },
    weights_initialization="reference",
    allowed={"model.detector": ("retinanet",)},
    closed_recipe="retinanet-resnext50-openimages",
    # The submitter chooses batch, learning rate and warm-up; the other settings do not change the
    # result.
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

# No benchmark: for other data sets and detectors. The same events, unchecked.
RULES["none"] = Rules(benchmark="ssd")
