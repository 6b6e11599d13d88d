"""A run's curves over epochs, from the files in its folder: loss, learning rate, mAP, speed and
waiting for data."""

from __future__ import annotations

import csv
import io
import json
import os
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from ssd.config import Config, load_recipe
from ssd.errors import UserError
from ssd.evaluation.scored_set import images_and_objects
from ssd.files import replacing
from ssd.matplotlib_cache import use_writable_cache
from ssd.report import published_run

OURS, PARTS, PUBLISHED = "#0b5fa5", ("#4c9bd9", "#8a6fbf"), "#c2571a"
STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.8,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
}


class RunHistory(NamedTuple):
    """The data of the curves. Columns by name, with one value per row."""

    recipe: str  # name of the recipe that the run started from
    config: Config
    training: Dict[str, List[float]]  # columns of train.csv, and `position`: epochs done
    evaluations: Dict[str, List[float]]  # columns of evaluation.csv
    train_images: Optional[int]  # None if the log does not state it


def read_history(run_folder: str) -> RunHistory:
    """The history of a run. UserError unless the folder is that of a run with training steps."""
    recipe = os.path.join(run_folder, "recipe.yaml")
    if not os.path.isfile(recipe):
        raise UserError(f"{run_folder}: not the folder of a run (no recipe.yaml)")
    training = _columns(os.path.join(run_folder, "train.csv"))
    if not training.get("step"):
        raise UserError(f"{run_folder}: train.csv has no steps")
    logged = _logged(os.path.join(run_folder, "mlperf.log"))
    images, batch = logged.get("train_samples"), logged.get("global_batch_size")
    length = max(1, images // batch) if images and batch else _steps_per_epoch(training)
    training["position"] = [step / length for step in training["step"]]
    return RunHistory(
        _recipe_name(recipe),
        load_recipe(recipe),
        training,
        _columns(os.path.join(run_folder, "evaluation.csv")),
        images,
    )


def draw_curves(run_folder: str, path: str) -> str:
    """Draw the curves of a run to a PNG file, which may replace an older one; returns its path."""
    run = read_history(run_folder)
    matplotlib, figure = _figure((9, 6.6))
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots(2, 2)
        for axis, (title, draw) in zip(axes.flat, CURVES):
            _draw(axis, draw, run)
            axis.set_title(title)
        figure.suptitle(_title(run), x=0.01, ha="left", fontsize=10)
        figure.tight_layout()
        with replacing(path) as partial:
            figure.savefig(partial, format="png", dpi=120)
    return path


def curve_figures(run_folder: str) -> List[Tuple[str, str]]:
    """(title, SVG text) of each plot; the text is an <svg> element without a prologue, for use in a
    page."""
    run = read_history(run_folder)
    return [(title, _svg(title, draw, run)) for title, draw in CURVES]


def _svg(title: str, draw, run: RunHistory) -> str:
    matplotlib, figure = _figure((4.8, 2.9))
    # A page holds several of these: the salt makes their ids distinct.
    with matplotlib.rc_context(dict(STYLE, **{"svg.hashsalt": title})):
        _draw(figure.subplots(), draw, run)
        figure.tight_layout()
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _figure(size):
    use_writable_cache()
    import matplotlib
    from matplotlib.figure import Figure

    return matplotlib, Figure(figsize=size)


def _title(run: RunHistory) -> str:
    images = f", {run.train_images:,} training images" if run.train_images else ""
    best = max(run.evaluations.get("AP", []), default=None)
    return f"{run.recipe}{images}" + (
        f", best mAP {best:.4f}{_extent(run)}" if best is not None else ""
    )


def _extent(run: RunHistory) -> str:
    """ " on 24 images, 80 objects": the data behind the scores; "" for runs that did not record it
    and for resumed runs whose parts differ."""
    found = set(zip(*(map(int, run.evaluations.get(name, ())) for name in ("images", "objects"))))
    return f" on {images_and_objects(*found.pop())}" if len(found) == 1 else ""


# ---- the curves


def _draw(axis, draw, run: RunHistory) -> None:
    from matplotlib.ticker import MaxNLocator

    draw(axis, run)
    for line in axis.lines:
        # A line of a single point (a short run) would be invisible.
        if len(line.get_xdata()) == 1 and line.get_marker() in ("", "None", None):
            line.set_marker(".")
    axis.set(xlabel="epoch", xlim=(0, None))
    axis.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=(1, 2, 5, 10)))


def _draw_loss(axis, run: RunHistory) -> None:
    rows = run.training
    position = rows["position"]
    axis.plot(
        position,
        [a + b for a, b in zip(rows["class_loss"], rows["offset_loss"])],
        color=OURS,
        label="loss",
    )
    axis.plot(position, rows["class_loss"], color=PARTS[0], linewidth=0.9, label="class loss")
    axis.plot(position, rows["offset_loss"], color=PARTS[1], linewidth=0.9, label="offset loss")
    _draw_published(
        axis, run, [(epoch - 0.5, loss) for epoch, loss in published_run.LOSS.items()], "o"
    )
    axis.set(ylabel="loss per positive default box", yscale="log")
    _plain_numbers(axis.yaxis)
    axis.legend()


def _draw_rate(axis, run: RunHistory) -> None:
    axis.plot(
        run.training["position"], run.training["learning_rate"], color=OURS, label="learning rate"
    )
    _draw_published(axis, run, published_run.RATE, "")
    axis.set(ylabel="learning rate", ylim=(0, None))
    if len(axis.lines) > 1:
        axis.legend()


def _draw_scores(axis, run: RunHistory) -> None:
    scores, target = run.evaluations, run.config.evaluation.target
    if scores.get("AP"):
        axis.plot(
            scores["epoch"],
            scores["AP"],
            "o-",
            color=OURS,
            markersize=4,
            label="mAP" + _extent(run),
        )
        axis.plot(
            scores["epoch"], scores["AP50"], ".:", color=PARTS[0], linewidth=0.9, label="at IoU .5"
        )
    else:
        axis.text(
            0.5, 0.5, "no evaluation yet", transform=axis.transAxes, ha="center", color="#777"
        )
    axis.axhline(target, color="#777", linewidth=0.9, linestyle="--", label=f"target {target:g}")
    _draw_published(axis, run, list(published_run.MAP.items()), "s")
    axis.set(ylabel="mAP", ylim=(0, None))
    axis.legend()


def _draw_speed(axis, run: RunHistory) -> None:
    rows = run.training
    measured = [row for row, speed in enumerate(rows["images_per_second"]) if speed > 0]
    if not measured:
        axis.text(0.5, 0.5, "not measured yet", transform=axis.transAxes, ha="center", color="#777")
    axis.plot(
        [rows["position"][row] for row in measured],
        [rows["images_per_second"][row] for row in measured],
        color=OURS,
        label="images/s",
    )
    axis.set(ylabel="images/s in training", ylim=(0, None))
    share = axis.twinx()
    share.spines["right"].set_visible(True)
    share.grid(False)
    share.plot(
        [rows["position"][row] for row in measured],
        [100 * rows["data_wait_share"][row] for row in measured],
        color=PARTS[1],
        linewidth=0.9,
        label="waiting for data",
        clip_on=False,  # 0 % lies on the axis
        zorder=3,
    )
    share.set(ylabel="waiting for data [%]", ylim=(0, 100))
    handles, labels = axis.get_legend_handles_labels()
    more = share.get_legend_handles_labels()
    axis.legend(handles + more[0], labels + more[1])


CURVES = (
    ("Loss", _draw_loss),
    ("mAP on the validation images", _draw_scores),
    ("Learning rate", _draw_rate),
    ("Speed", _draw_speed),
)


def _draw_published(
    axis, run: RunHistory, points: Sequence[Tuple[float, float]], marker: str
) -> None:
    """Add the published run to a run of the same network on COCO's categories: other runs cannot
    be compared with it."""
    if not published_run.is_benchmark(run.config):
        return
    all_of_coco = (
        run.train_images is None
        or abs(run.train_images - published_run.TRAIN_IMAGES) < 0.01 * published_run.TRAIN_IMAGES
    )
    label = (
        published_run.NAME
        if all_of_coco
        else f"{published_run.NAME},\non all {published_run.TRAIN_IMAGES:,} images"
    )
    axis.plot(
        *zip(*points),
        marker=marker,
        color=PUBLISHED,
        markersize=3.5,
        linewidth=1,
        linestyle="--",
        label=label,
    )


def _plain_numbers(axis) -> None:
    """Label a logarithmic axis with 5 and 10, not powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


# ---- the files


def _recipe_name(path: str) -> str:
    import yaml

    with open(path, encoding="utf-8") as file:
        return str(yaml.safe_load(file).get("recipe", "recipe"))


def _columns(path: str) -> Dict[str, List[float]]:
    """A CSV file's columns, without incomplete rows (of a killed run) and without columns that
    have no number in some row (of an older version). Empty without a file."""
    if not os.path.isfile(path):
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if None not in row.values() and None not in row]
        names = reader.fieldnames or []
    complete = [name for name in names if all(_is_number(row[name]) for row in rows)]
    return {name: [float(row[name]) for row in rows] for name in complete}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _logged(path: str) -> Dict[str, int]:
    """The numbers of images and of images per batch in the MLPerf log of the run's first part."""
    found = {}
    if os.path.isfile(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                if '"train_samples"' in line or '"global_batch_size"' in line:
                    try:
                        event = json.loads(line[line.index("{") :])
                        found[event["key"]] = int(event["value"])
                    except (ValueError, KeyError, TypeError):
                        continue
                if '"run_start"' in line:
                    break
    return found


def _steps_per_epoch(training: Dict[str, List[float]]) -> int:
    """The fewest steps an epoch can have had, given the epoch in each row."""
    return max(
        1, *(int(-(-step // epoch)) for step, epoch in zip(training["step"], training["epoch"]))
    )
