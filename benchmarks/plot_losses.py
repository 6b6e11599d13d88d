"""Draws the losses of several runs, each in a panel of its own: `plot_losses.py RUN_FOLDER ...
OUT.png`."""

from __future__ import annotations

import csv
import os
import sys
from typing import List

import yaml


def mean_of(values: List[float], count: int) -> List[float]:
    """The mean of each value and up to count - 1 before it."""
    return [
        sum(values[max(0, end - count) : end]) / min(count, end)
        for end in range(1, len(values) + 1)
    ]


def main(folders: List[str], out: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(3, len(folders))
    figure, axes = pyplot.subplots(
        -(-len(folders) // columns),
        columns,
        squeeze=False,
        dpi=100,
        figsize=(4 * columns, 3 * -(-len(folders) // columns)),
    )
    for axis, folder in zip(axes.flat, folders):
        with open(os.path.join(folder, "train.csv"), encoding="utf-8") as file:
            rows = [
                {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)
            ]
        with open(os.path.join(folder, "recipe.yaml"), encoding="utf-8") as file:
            recipe = yaml.safe_load(file)
        steps = [row["step"] for row in rows]
        for name, color in (("class_loss", "tab:blue"), ("offset_loss", "tab:orange")):
            values = [row[name] for row in rows]
            axis.plot(steps, values, color=color, alpha=0.3, linewidth=1)
            axis.plot(
                steps,
                mean_of(values, 10),
                color=color,
                label=name.replace("_", " ") + ", mean of 10",
            )
        axis.set(
            title=f"{recipe['recipe']}, batch {recipe['training']['batch_size']}", yscale="log"
        )
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3, which="both")
    for axis in list(axes.flat)[len(folders) :]:
        axis.axis("off")
    for axis in axes[-1]:
        axis.set_xlabel("step")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: plot_losses.py RUN_FOLDER ... OUT.png")
    main(sys.argv[1:-1], sys.argv[-1])
