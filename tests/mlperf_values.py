"""Values and events of a run for tests of MLPerf logs."""

import ast
import json
import os

import numpy as np
import yaml
from mlperf_logging import compliance_checker

HYPERPARAMETERS = dict(
    train_samples=117266,
    eval_samples=5000,
    global_batch_size=456,
    gradient_accumulation_steps=1,
    model_bn_span=114,
    opt_base_learning_rate=0.003157 * 456 / 32,
    opt_weight_decay=1.3e-4,
    opt_learning_rate_warmup_steps=771,
    opt_learning_rate_warmup_factor=0,
    opt_learning_rate_decay_boundary_epochs=(44, 55),
    max_samples=1,
)
STATS = {"AP": 0.2314, "AP50": 0.4, "APs": -1.0, "images": 5000, "objects": 36335}


def tensor_names(ruleset="1.1.0"):
    """The names of the tensors that a round requires, from the text of its rule, sorted(...) ==
    sorted([ names ]): 119 in 1.1.0, 89 in 2.0.0."""
    folder = os.path.join(os.path.dirname(compliance_checker.__file__), f"training_{ruleset}")
    with open(os.path.join(folder, "closed_ssd.yaml")) as file:
        rules = yaml.load(file, Loader=yaml.BaseLoader)
    check = next(rule["END"]["CHECK"] for rule in rules if "END" in rule)
    return ast.literal_eval(check[check.rindex("sorted(") + len("sorted(") : check.rindex(")")])


def parsed(text):
    """The events of a log's text."""
    return [json.loads(line[len(":::MLLOG ") :]) for line in text.splitlines()]


def write_run(
    log, *, names=None, accuracy=0.2314, status="success", hyperparameters=HYPERPARAMETERS
):
    """A run of two epochs, each with an evaluation."""
    log.submission("An organisation", "a 2-core machine", "closed", "onprem")
    log.cache_clear("data set: pages of 5 files")
    log.init_start()
    log.seed(np.int64(17))
    log.hyperparameters(**hyperparameters)
    log.weights_initialization(tensor_names() if names is None else names)
    log.init_stop()
    log.run_start()
    for epoch in (1, 2):
        log.epoch_start(epoch)
        log.epoch_stop(epoch)
        log.eval_start(epoch)
        log.eval_stop(epoch)
        log.eval_accuracy(
            epoch, np.float32(accuracy) if epoch == 2 else 0.1, images=5000, objects=np.int64(36335)
        )
        log.eval_result(epoch, STATS)
    log.run_stop(status)
