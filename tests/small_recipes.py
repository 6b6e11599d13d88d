"""The built-in recipes at a small size, and the first recipe of each combination of kinds."""

import yaml

from ssd.config import builtin_recipes, load_recipe
from ssd.model.boxes.ssd_sizes import SETTINGS

SMALL = dict(
    model=dict(width=0.125, image_size=64, num_classes=4, frozen_stages=0, batch_norm="trained"),
    detection=dict(score_threshold=0.001),
    data=dict(
        train_annotations="annotations/bbox_only_instances_train2017.json",
        train_images="train2017",
        val_annotations="annotations/bbox_only_instances_val2017.json",
        val_images="val2017",
        data_threads=1,
    ),
    training=dict(batch_size=4, epochs=2),
    evaluation=dict(eval_batch_size=4, eval_every=1),
    run=dict(log_interval=1, report=False, seed=3),
)


def kinds(recipe):
    """The kinds of every seam that a recipe chooses."""
    config = load_recipe(recipe)
    model, loss = config.model, config.loss.loss
    return (
        model.backbone,
        model.features,
        model.head,
        model.head_kernel,
        config.default_boxes.rule,
        config.default_boxes.matching,
        loss,
        config.detection.detections,
        config.training.optimizer,
        config.training.schedule,
    )


def first_of_each_kind():
    found = {}
    for recipe in builtin_recipes():
        found.setdefault(kinds(recipe), recipe)
    return sorted(found.values())


def small(recipe, folder):
    """Path of a recipe of the same kinds at this size; its settings of feature maps and default
    boxes are computed."""
    config, path = load_recipe(recipe), str(folder / "small.yaml")
    values = {section: dict(part) for section, part in SMALL.items()}
    for section, _, name in (setting.partition(".") for setting in SETTINGS):
        if getattr(getattr(config, section), name):
            values.setdefault(section, {})[name] = []
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(dict(values, extends=recipe), file)
    return path
