"""Resuming from a checkpoint of an older version, in which newer settings are missing."""

import pytest

from ssd.config import as_dict, load_recipe
from ssd.errors import UserError
from ssd.training.recovery import check


def older(config, *missing):
    """The state of a checkpoint without some settings ('section.name')."""
    saved = as_dict(config)
    for name in missing:
        section, _, key = name.partition(".")
        del saved[section][key]
    return dict(recipe=saved, global_batch=config.training.batch_size, ranks=1, samples="same")


def test_missing_settings_are_taken_from_the_recipe_and_reported():
    config = load_recipe("ssd-resnet34-shapes")
    assert check(older(config), config, 1, "same", "step-1") == ""
    state = older(
        config, "training.loss_scale_window", "augmentation.hue", "run.report", "data.prefetch"
    )
    line = check(state, config, 1, "same", "step-1")
    assert line.startswith("checkpoint step-1: ") and line.endswith(
        "those of ssd-resnet34-shapes: augmentation.hue 18.0, training.loss_scale_window 2000"
    )
    with pytest.raises(
        UserError, match="hue: not in the checkpoint, 18.0 in ssd-resnet34-shapes, 5.0 now"
    ):
        check(state, config.with_values(hue=5), 1, "same", "step-1")


def test_without_a_built_in_recipe_missing_settings_are_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: ssd-resnet34-shapes\ntraining: {batch_size: 3}\n")
    config = load_recipe(str(path))
    with pytest.raises(UserError, match="augmentation.hue: null in the checkpoint, 18.0 now"):
        check(older(config, "augmentation.hue"), config, 1, "same", "step-1")


def test_settings_with_a_fixed_value_in_older_versions_are_not_reported(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: ssd-resnet34-shapes\ntraining: {batch_size: 3}\n")
    for config in (load_recipe(str(path)), load_recipe("ssd-resnet34-shapes")):
        state = older(config, "training.optimizer", "training.schedule", "training.warmup")
        assert check(state, config, 1, "same", "step-1") == ""
        with pytest.raises(UserError, match='schedule: "steps" in the checkpoint, "constant" now'):
            check(state, config.with_values(schedule="constant"), 1, "same", "step-1")
