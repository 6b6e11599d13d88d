"""Recipes, flags, and what they refuse."""

import os
import subprocess
import sys

import pytest
import yaml

from ssd import config as settings
from ssd.__main__ import COMMANDS
from ssd.config import load_recipe
from ssd.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def recipe(tmp_path, text, name="mine.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_every_builtin_recipe_loads():
    for name in settings.builtin_recipes():
        assert load_recipe(name).recipe == name


def test_a_saved_recipe_reads_back_equal(tmp_path):
    config = load_recipe("ssd-resnet34-shapes").with_values(seed=7, base_lr=1e-7, decay_epochs=[])
    again = load_recipe(recipe(tmp_path, settings.to_yaml(config)))
    assert settings.as_dict(again) == settings.as_dict(config)


def test_a_copy_of_an_older_version(tmp_path):
    """Settings missing from a run's recipe.yaml are those of the built-in recipe of its name, and
    are reported; another recipe must be complete."""
    config = load_recipe("ssd-resnet34-shapes").with_values(image_size=512, batch_size=7)
    content = yaml.safe_load(settings.to_yaml(config))
    del content["training"]["base_lr"], content["run"]["report"], content["recovery"]
    lines = []
    again = load_recipe(recipe(tmp_path, yaml.safe_dump(content)), lines.append)
    assert (
        settings.as_dict(again) == settings.as_dict(config)
        and again.recipe == "ssd-resnet34-shapes"
    )
    assert len(lines) == 1
    assert (
        "taken from ssd-resnet34-shapes: training.base_lr 0.06, run.report true, "
        "recovery.save_interval " in lines[0]
    )
    load_recipe(
        recipe(tmp_path, "extends: " + recipe(tmp_path, settings.to_yaml(config), "complete.yaml")),
        lines.append,
    )
    load_recipe("ssd-resnet34-shapes", lines.append)
    assert len(lines) == 1
    content["recipe"] = "mine"
    with pytest.raises(UserError, match="training.base_lr is missing"):
        load_recipe(recipe(tmp_path, yaml.safe_dump(content)))


def test_a_kind_drops_the_inherited_settings_that_it_does_not_use(tmp_path):
    constant = load_recipe(
        recipe(tmp_path, "extends: ssd-resnet34-coco\ntraining: {schedule: constant}")
    )
    assert constant.training.decay_epochs is None and constant.training.decay_factor is None
    assert (
        load_recipe("ssd-resnet34-coco").with_values(schedule="constant").training
        == constant.training
    )
    assert load_recipe(recipe(tmp_path, settings.to_yaml(constant))) == constant
    assert settings.differences(constant, load_recipe("ssd-resnet34-coco")) == [
        ("training.schedule", "steps", "constant"),
        ("training.decay_epochs", [44, 55], None),
        ("training.decay_factor", 0.1, None),
    ]


def test_a_kind_refuses_settings_that_it_does_not_use_and_asks_for_its_own(tmp_path):
    recipe(tmp_path, "extends: ssd-resnet34-coco\ntraining: {schedule: constant}", "base.yaml")
    path = recipe(tmp_path, "extends: base.yaml\ntraining: {schedule: steps, decay_factor: 0.5}")
    with pytest.raises(
        UserError,
        match=f"recipe {path}: training.decay_epochs is missing: training.schedule is steps",
    ):
        load_recipe(path)
    load_recipe(
        recipe(
            tmp_path,
            "extends: base.yaml\ntraining: {schedule: steps, decay_factor: 0.5, decay_epochs: []}",
        )
    )
    words = "training.decay_factor: 0.5, but training.schedule is constant, which does not use it"
    with pytest.raises(UserError, match=words):
        load_recipe(recipe(tmp_path, "extends: base.yaml\ntraining: {decay_factor: 0.5}"))
    constant = load_recipe(str(tmp_path / "base.yaml"))
    with pytest.raises(UserError, match=words):
        constant.with_values(decay_factor=0.5)
    with pytest.raises(UserError, match="'const' is not one of steps, constant"):
        load_recipe(
            recipe(tmp_path, "extends: base.yaml\ntraining: {decay_factor: 0.5, schedule: const}")
        )
    with pytest.raises(
        UserError, match="training.decay_factor is missing: training.schedule is steps"
    ):
        load_recipe("ssd-resnet34-coco").with_values(decay_factor=None)


def test_what_older_versions_always_did_needs_no_recipe(tmp_path):
    """A run's copy of before optimizers and schedules could be chosen, of a recipe that is not
    built in."""
    config = load_recipe(
        recipe(tmp_path, "extends: ssd-resnet34-shapes\ntraining: {momentum: 0.8}")
    )
    content = yaml.safe_load(settings.to_yaml(config))
    for name, (section, field) in settings.SETTINGS.items():
        if field.metadata["before"] is not None:
            del content[section][name]
    for name in ("adam_betas", "adam_epsilon"):
        content["training"].pop(name, None)
    lines = []
    assert (
        load_recipe(recipe(tmp_path, yaml.safe_dump(content)), lines.append) == config and not lines
    )


def test_extending_changes_only_what_is_named(tmp_path):
    path = recipe(tmp_path, "extends: ssd-resnet34-coco\ntraining:\n  batch_size: 5\n")
    changed = settings.differences(load_recipe(path), load_recipe("ssd-resnet34-coco"))
    assert changed == [("training.batch_size", 32, 5)]


def test_extending_a_file_beside(tmp_path):
    recipe(tmp_path, "extends: ssd-resnet34-coco\ntraining: {epochs: 3}\n", "base.yaml")
    path = recipe(tmp_path, "extends: base.yaml\ntraining: {batch_size: 5}\n")
    assert (load_recipe(path).training.epochs, load_recipe(path).training.batch_size) == (3, 5)


@pytest.mark.parametrize(
    "text, words",
    [
        (
            "extends: ssd-resnet34-coco\ntraining: {bach_size: 5}",
            "unknown key training.bach_size; did you mean batch_size?",
        ),
        (
            "extends: ssd-resnet34-coco\ntrainig: {epochs: 5}",
            "unknown section 'trainig'; did you mean training?",
        ),
        (
            "extends: ssd-resnet34-coco\ntraining: {epochs: 0}",
            "training.epochs: 0 must be at least 1",
        ),
        (
            "extends: ssd-resnet34-coco\ntraining: {epochs: many}",
            "training.epochs: a whole number is needed, not 'many'",
        ),
        (
            "extends: ssd-resnet34-coco\ntraining: {base_lr: .nan}",
            "training.base_lr: a number is needed",
        ),
        (
            "extends: ssd-resnet34-coco\nmodel: {layout: NWHC}",
            "'NWHC' is not one of NCHW, NHWC; did you mean NHWC?",
        ),
        (
            "extends: ssd-resnet34-coco\naugmentation: {augment: 1}",
            "true or false is needed, not 1",
        ),
        ("extends: ssd-resnet34-coco\naugmentation: {crop_attempts: 7}", "7 is not 1 or 50"),
        (
            "extends: ssd-resnet34-own\naugmentation: {crop_attempts: 0}",
            "crop_attempts: 0 must be at least 1",
        ),
        ("extends: ssd-resnet34-coco\nrun: {rules: ssd-1.0.0}", "did you mean ssd-1.1.0?"),
        (
            "extends: ssd-resnet34-coco\naugmentation: {crop_scale: [1]}",
            "2 values are needed, not [1]",
        ),
        (
            "extends: ssd-resnet34-coco\ntraining: {decay_epochs: [55, 44]}",
            "[55, 44] must be ascending",
        ),
        ("extends: mine.yaml", "extends itself"),
        ("extends: ssd-resnt34-coco", "did you mean ssd-resnet34-coco?"),
        ("training: {batch_size: 5}", "is missing"),
        ("extends: ssd-resnet34-coco\ntraining: 5", "section training holds no settings"),
        ("a: [", "not YAML"),
        ("a: 2020-13-45", "not YAML: month must be"),
        (
            "extends: ssd-resnet34-coco\ntraining: {epochs: 1" + 400 * "0" + "}",
            "a whole number is needed",
        ),
        ("just words", "sections are needed"),
        ("", "sections are needed"),
    ],
)
def test_what_a_recipe_may_not_hold(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        load_recipe(recipe(tmp_path, text))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_yaml_cannot_make_objects(tmp_path):
    marker = tmp_path / "made"
    with pytest.raises(UserError, match="not YAML"):
        load_recipe(recipe(tmp_path, f"a: !!python/object/apply:os.mkdir ['{marker}']"))
    assert not marker.exists()


def test_numbers_that_yaml_reads_as_text(tmp_path):
    path = recipe(tmp_path, "extends: ssd-resnet34-coco\ntraining: {base_lr: 1e-4}")
    assert load_recipe(path).training.base_lr == 1e-4


# ---- the command line, as a user types it


def command(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "ssd", *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["train", "--bach-size", "3"], "unknown flag --bach-size; did you mean --batch-size?"),
        (["train", "--batch", "3"], "unknown flag --batch; did you mean --lr-batch?"),
        (["train", "--batch-size", "0"], "--batch-size: 0 must be at least 1"),
        (["train", "--batch-size", "three"], "--batch-size: a whole number is needed, not 'three'"),
        (["train", "--recipe", "ssd-resnet34-koko"], "no recipe 'ssd-resnet34-koko'"),
        (["train", "--data-dir", "/no/such/folder"], "--data-dir /no/such/folder: no such folder"),
        (["train", "--layout", "NHCW"], "did you mean NHWC?"),
        (["trian"], "unknown command 'trian'; did you mean train?"),
        (["evaluate", "--weights", "/no/such/file"], "--weights /no/such/file: no such file"),
        (["evaluate"], "--weights"),
    ],
)
def test_one_line_for_a_mistake(arguments, words):
    result = command(*arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1 and not result.stdout


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_help_names_every_flag_without_the_heavy_libraries(name):
    """Each command's help text, and their list, with the libraries that take seconds to import made
    unimportable."""
    block = (
        "import sys\nfor name in ('mxnet', 'horovod', 'nvidia', 'gluoncv', 'cv2', 'pycocotools', "
        "'matplotlib'):\n"
        "    sys.modules[name] = None\nfrom ssd.__main__ import main\nmain(sys.argv[1:])"
    )
    result = subprocess.run(
        [sys.executable, "-c", block, *filter(None, [name]), "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and not result.stderr
    assert result.stdout.count("--") >= 3 or (
        not name and all(command in result.stdout for command in COMMANDS)
    )
    if name == "train":
        for setting, (_, field) in settings.SETTINGS.items():
            if field.metadata["flag"]:
                assert "--" + setting.replace("_", "-") in result.stdout
