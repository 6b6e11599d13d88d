"""Several weights on one data set: a table, a CSV file and a plot."""

from __future__ import annotations

import csv
import os
from typing import List

from ssd.errors import on_a_line
from ssd.evaluation.scored_set import images_and_objects
from ssd.evaluation.scoring import STAT_NAMES
from ssd.files import replacing, write_errors
from ssd.fonts import for_matplotlib, readable, shortened
from ssd.matplotlib_cache import use_writable_cache
from ssd.terminal import columns, padded

SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
EXTENT = ("images", "objects")  # the numbers of both behind a score


def names_of(results: List[dict]) -> List[str]:
    """The name of each result in a table: step and epoch if all have them, else the last parts of
    the path that tell them apart. results: dicts with weights (a path), perhaps step and epoch,
    and COCO's twelve numbers."""
    if all("step" in result for result in results):
        return [
            f"step {result['step']}"
            + (f" (epoch {result['epoch']:.4g})" if result["epoch"] is not None else "")
            for result in results
        ]
    parts = [os.path.normpath(result["weights"]).split(os.sep) for result in results]
    for length in range(1, max(map(len, parts)) + 1):
        names = [os.sep.join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def format_sweep(results: List[dict]) -> str:
    """One line per result, the best AP marked; "-" if undefined."""
    names = list(map(on_a_line, names_of(results)))
    width, best = (
        max([len("weights")] + list(map(columns, names))),
        max(result["AP"] for result in results),
    )
    lines = [f"{'weights':<{width}}" + "".join(f"{name:>8}" for name in SHOWN + EXTENT)]
    for name, result in zip(names, results):
        numbers = "".join(
            f"{'-' if result[one] < 0 else format(result[one], '.4f'):>8}" for one in SHOWN
        )
        numbers += "".join(f"{result.get(one, '-'):>8}" for one in EXTENT)
        lines.append(f"{padded(name, width)}{numbers}" + ("  best" if result["AP"] == best else ""))
    return "\n".join(lines)


def write_sweep(folder: str, results: List[dict]) -> None:
    """Write sweep.csv and sweep.png to a new or empty folder. UserError if that fails."""
    with write_errors(f"--sweep-output {folder}", os.path.join(folder, "sweep.csv")):
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "sweep.csv")
        text = dict(
            newline="", encoding="utf-8", errors="backslashreplace"
        )  # paths need not be UTF-8
        with replacing(path) as partial, open(partial, "w", **text) as file:
            writer = csv.writer(file)
            writer.writerow(("weights", "step", "epoch", *EXTENT, *STAT_NAMES))
            for result in results:
                writer.writerow(
                    [
                        result["weights"],
                        *(result.get(name) for name in ("step", "epoch", *EXTENT)),
                        *(f"{result[name]:.6f}" for name in STAT_NAMES),
                    ]
                )
        draw_sweep(os.path.join(folder, "sweep.png"), results)


def draw_sweep(path: str, results: List[dict]) -> None:
    """Plot AP, AP50 and AP75 over epochs (else steps, else files) as a PNG."""
    use_writable_cache()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    column = next(
        (name for name in ("epoch", "step") if all(one.get(name) is not None for one in results)),
        None,
    )
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    positions = [result[column] for result in results] if column else range(len(results))
    for name, color in (("AP50", "#8fb8de"), ("AP75", "#e0a458"), ("AP", "#1b4965")):
        axes.plot(
            positions,
            [max(0.0, result[name]) for result in results],
            "o-",
            color=color,
            markersize=4,
            linewidth=2.2 if name == "AP" else 1.4,
            label="AP (IoU .50:.95)" if name == "AP" else name,
        )
    best = max(range(len(results)), key=lambda index: results[index]["AP"])
    axes.annotate(
        f"{results[best]['AP']:.4f}",
        (positions[best], results[best]["AP"]),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        color="#1b4965",
        weight="bold",
    )
    if column and all(float(position).is_integer() for position in positions):
        axes.xaxis.get_major_locator().set_params(integer=True)
    if column is None:
        names = [readable(name) for name in names_of(results)]
        folders = list(map(os.path.dirname, names))
        if all(folders) and len(set(folders)) == len(names):  # of runs: each is a weights.params
            names = folders
        names = [shortened(name, 24) for name in names]
        axes.set_xticks(
            list(positions),
            [name.replace("$", r"\$") for name in names],
            rotation=30 if len(names) <= 16 else 90,
            ha="right" if len(names) <= 16 else "center",
            fontfamily=for_matplotlib(names),
        )
    axes.set_xlabel(column or "")
    axes.set_ylabel("average precision")
    extents = {
        images_and_objects(*map(result.get, EXTENT))
        for result in results
        if all(map(result.__contains__, EXTENT))
    }
    if extents:
        axes.set_title("on " + " or ".join(sorted(extents)), fontsize=9, loc="left")
    axes.set_ylim(bottom=0)
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with replacing(path) as partial:
        figure.savefig(partial, format="png")
