"""What the rule set of a benchmark asks of a run's log: one row each, chosen by the setting run.rules.

The values of a row are those of mlperf_logging/compliance_checker/training_RULESET (common.yaml, closed_common.yaml and
closed_BENCHMARK.yaml) and of mlperf_logging/benchmark_meta.py in the package mlperf-logging.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Tuple

DEFAULT_RULES = "ssd-1.1.0"


@dataclass(frozen=True)
class Rules:
    """One rule set. The defaults ask for nothing."""
    benchmark: str                              # its name in the log, of result folders and of convergence points
    ruleset: Optional[str] = None               # what the official checkers call the rules; None: they know none
    target: Optional[float] = None              # least score that a run must reach: COCO's AP as a fraction
    runs: int = 0                               # of a submission
    # Keys of the log and the kind of their values (int, float, str or list), in the order in which they are logged. All
    # runs of a submission have the same values. None: any keys, each value as it is.
    hyperparameters: Optional[Dict[str, type]] = None
    weights_initialization: bool = True         # log every tensor that is trained
    # Values that the closed division allows for a setting, by 'section.name'.
    allowed: Dict[str, Tuple[Any, ...]] = field(default_factory=dict)


RULES: Dict[str, Rules] = {
    "ssd-1.1.0": Rules(
        benchmark="ssd", ruleset="1.1.0", target=0.23, runs=5,
        hyperparameters={
            "train_samples": int,                               # images trained on: those with a box
            "eval_samples": int,                                # images evaluated: all
            "global_batch_size": int,                           # images per step over all ranks
            "gradient_accumulation_steps": int,
            "model_bn_span": int,                               # images that share the statistics of a BatchNorm
            "max_samples": int,                                 # attempts at each random crop: 1 or 50
            "opt_learning_rate_warmup_steps": int,              # steps, at least 1
            "opt_base_learning_rate": float,                    # the scaled one: base * global batch / 32
            "opt_weight_decay": float,
            "opt_learning_rate_warmup_factor": float,
            "opt_learning_rate_decay_boundary_epochs": list},   # [40, 50] * (1 + k/10), k a whole number
        allowed={"augmentation.crop_attempts": (1, 50)}),
    # No benchmark: own data sets and other detectors. The same events, unchecked.
    "none": Rules(benchmark="ssd"),
}
