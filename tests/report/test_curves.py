"""The curves of a run, from synthetic folders."""

import os
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from ssd.config import load_recipe, to_yaml
from ssd.errors import UserError
from ssd.report import published_run
from ssd.report.curves import CURVES, OURS, PUBLISHED, curve_figures, draw_curves, read_history

HEADER = (
    "epoch,step,images,seconds,class_loss,offset_loss,learning_rate,images_per_second,"
    "data_wait_share\n"
)


def run_folder(
    folder,
    recipe="ssd-resnet34-coco",
    samples=published_run.TRAIN_IMAGES,
    batch=456,
    steps=3000,
    every=20,
    log=True,
    **settings,
):
    folder.mkdir()
    (folder / "recipe.yaml").write_text(to_yaml(load_recipe(recipe).with_values(**settings)))
    length = samples // batch
    rows = [
        f"{-(-step // length)},{step},{step * batch},{step}.5,"
        f"{8 / step**0.2:.4f},{2 / step**0.1:.4f},0.0025,"
        f"{0 if step == 1 else 100},0.02\n"
        for step in [1, *range(every, steps + 1, every)]
    ]
    (folder / "train.csv").write_text(HEADER + "".join(rows))
    (folder / "evaluation.csv").write_text("epoch,AP,AP50\n5,0.081,0.19\n10,0.13,0.27\n")
    if log:
        (folder / "mlperf.log").write_text(
            "".join(
                f':::MLLOG {{"key": "{key}", "value": {value}, "metadata": {{}}}}\n'
                for key, value in (
                    ("train_samples", samples),
                    ("global_batch_size", batch),
                    ("run_start", "null"),
                )
            )
        )
    return folder


def pixels(path):
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def has_color(image, color):
    wanted = [int(color[index : index + 2], 16) for index in (1, 3, 5)]
    return int((np.abs(image - wanted).max(-1) < 8).sum())


def test_plot_with_our_and_the_published_run(tmp_path):
    folder = run_folder(tmp_path / "run")
    assert draw_curves(str(folder), str(tmp_path / "curves.png")) == str(tmp_path / "curves.png")
    image = pixels(tmp_path / "curves.png")
    assert (
        image.shape[0] > 500 and has_color(image, OURS) > 300 and has_color(image, PUBLISHED) > 100
    )
    (folder / "evaluation.csv").unlink()
    draw_curves(str(folder), str(tmp_path / "curves.png"))
    assert has_color(pixels(tmp_path / "curves.png"), OURS) > 300, (
        "drawn anew, without an evaluation"
    )
    assert sorted(os.listdir(tmp_path)) == ["curves.png", "run"], "no partial file"


def test_the_published_run_is_only_shown_with_coco_categories(tmp_path):
    from matplotlib.figure import Figure

    def label(name, **changes):
        """The legend entry of the published run in one plot."""
        axis = Figure().subplots()
        draw = dict(CURVES)["Learning rate"]
        draw(axis, read_history(str(run_folder(tmp_path / name, **changes))))
        return (
            [text.get_text() for text in axis.get_legend().get_texts()][1]
            if axis.get_legend()
            else None
        )

    assert label("coco") == published_run.NAME
    assert label("part", samples=1000, batch=8) == f"{published_run.NAME},\non all 117,266 images"
    assert label("shapes", recipe="ssd-resnet34-shapes", samples=446, batch=4) is None
    assert label("narrow", width=0.5) is None


def test_figures_fit_into_one_page(tmp_path):
    figures = curve_figures(str(run_folder(tmp_path / "run")))
    assert [title for title, _ in figures][:3] == [
        "Loss",
        "mAP on the validation images",
        "Learning rate",
    ]
    assert sum(published_run.NAME in text for _, text in figures) == 3, (
        "beside loss, mAP and learning rate"
    )
    seen = set()
    for _, text in figures:
        assert text.startswith("<svg") and "<script" not in text and "url(http" not in text
        ElementTree.fromstring(text)
        clips = set(re.findall(r'<clipPath id="([^"]+)"', text))
        assert clips and not clips & seen, "identifiers of one figure in another"
        seen |= clips
    assert figures == curve_figures(str(tmp_path / "run")), "the same twice"


def test_a_run_of_one_row(tmp_path):
    figures = dict(
        curve_figures(str(run_folder(tmp_path / "run", recipe="ssd-resnet34-shapes", steps=1)))
    )
    points = {
        title: len(re.findall(f"<use [^>]*fill: {OURS}", text)) for title, text in figures.items()
    }
    assert points["Loss"] == points["Learning rate"] == 1, "a line of one point is not seen"
    assert "not measured yet" in figures["Speed"]


@pytest.mark.parametrize("log", [True, False])
def test_positions_in_epochs(tmp_path, log):
    run = read_history(
        str(run_folder(tmp_path / "run", samples=1003, batch=10, steps=300, every=7, log=log))
    )
    np.testing.assert_allclose(
        run.training["position"], np.array(run.training["step"]) / 100, rtol=0.03
    )


def test_folders_of_runs_that_were_killed(tmp_path):
    """A row cut short is left out; columns that a run's first part did not write yet too."""
    folder = run_folder(tmp_path / "run", steps=100)
    rows = (folder / "train.csv").read_text().splitlines()
    (folder / "train.csv").write_text(
        "\n".join(
            [rows[0] + ",data_wait_seconds"]
            + [row + "," for row in rows[1:]]
            + [rows[-1] + ",3.5", "1,120,54720"]
        )
    )
    run = read_history(str(folder))
    assert (
        run.training["step"] == [1, 20, 40, 60, 80, 100, 100]
        and "data_wait_seconds" not in run.training
    )
    for name, words in (("train.csv", "has no steps"), ("recipe.yaml", "no recipe.yaml")):
        (folder / name).unlink()
        with pytest.raises(UserError, match=words):
            draw_curves(str(folder), str(tmp_path / "curves.png"))


def test_the_published_run():
    assert published_run.epoch_reaching(0.23) == 50 and published_run.epoch_reaching(0.2278) == 45
    assert published_run.epoch_reaching(0.5) is None
    config = load_recipe("ssd-resnet34-coco").with_values(pretrained_backbone="resnet34.onnx")
    assert published_run.is_same_task(config, 117266)
    assert not published_run.is_same_task(config, 1000)
    assert not published_run.is_same_task(config.with_values(decay_epochs=(48, 60)), 117266)
    assert not published_run.is_same_task(config.with_values(pretrained_backbone=""), 117266)
