"""`python -m ssd evaluate`: saved weights on a validation set."""
from __future__ import annotations

import json
import os
import sys

from ssd.commandline import read_settings
from ssd.errors import UserError


def run(args) -> int:
    """Prints the twelve numbers; the recipe is the one saved in the weights' run unless --recipe names another."""
    from ssd.data.locate import dataset_paths
    folder = os.path.dirname(os.path.abspath(getattr(args, "run.weights", "")))
    # runs/mine/weights.params, or runs/mine/checkpoints/step-00000123/parameters.npz
    recipes = [os.path.join(folder, *up, "recipe.yaml") for up in ((), (os.pardir, os.pardir))]
    config = read_settings(args, next(filter(os.path.isfile, recipes), None))
    weights = config.run.weights
    if "run.weights" not in vars(args):
        raise UserError("--weights: name the file of saved weights")
    if not os.path.isfile(weights):
        raise UserError(f"--weights {weights}: no such file")
    if args.save_detections and os.path.exists(args.save_detections):
        raise UserError(f"--save-detections {args.save_detections}: exists already")
    annotations, _ = dataset_paths(config, "val")
    detections = detect_all(config, weights)
    if args.save_detections:
        detections.to_json(args.save_detections)
    from ssd.evaluation.scoring import format_table, score_detections
    stats = score_detections(annotations, detections)
    print(json.dumps(stats) if args.json else format_table(stats))
    return 0


def detect_all(config, weights: str):
    """Detections of the network of `config` with `weights` on all validation images."""
    from ssd.data.locate import load_dataset
    from ssd.data.pipeline import EvaluationLoader
    from ssd.evaluation.inference import build_inference, detect
    from ssd.evaluation.pending import as_detections
    from ssd.model.device import choose_device
    from ssd.model.initialization import initialize
    from ssd.model.ssd import build_model
    from ssd.model.weights import load_weights
    device = choose_device(config)
    dataset = load_dataset(config, "val")
    network = build_model(config)
    initialize(network, 0, device.context)
    load_weights(network, weights)
    inference, _ = build_inference(config, network, device)
    loader = EvaluationLoader(config, dataset, rank=0, size=1, device=device.kind, device_id=device.index,
                              pad_channels=network.input_channels == 4)
    try:
        rows = detect(inference, loader, dataset.sizes)
    finally:
        loader.close()
    print(f"{len(rows)} detections on {dataset.num_images} images", file=sys.stderr)
    return as_detections(rows, dataset)
