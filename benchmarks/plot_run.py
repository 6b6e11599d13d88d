"""Draws a run's losses, and its mAP where it was evaluated more than once: `plot_run.py RUN_FOLDER
OUT.png`."""

from __future__ import annotations

import csv
import os
import sys


def read(path: str):
    with open(path, encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def main(run_folder: str, out: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    training = read(os.path.join(run_folder, "train.csv"))
    scores = read(os.path.join(run_folder, "evaluation.csv"))
    figure, axis = pyplot.subplots(figsize=(8, 4), dpi=100)
    steps = [row["step"] for row in training]
    axis.plot(steps, [row["class_loss"] + row["offset_loss"] for row in training], label="loss")
    axis.plot(steps, [row["class_loss"] for row in training], label="class loss", linewidth=1)
    axis.plot(steps, [row["offset_loss"] for row in training], label="offset loss", linewidth=1)
    axis.set(xlabel="step", ylabel="loss per positive default box", yscale="log")
    axis.grid(alpha=0.3)
    handles, labels = axis.get_legend_handles_labels()
    if len(scores) > 1:
        last_of_epoch = {row["epoch"]: row["step"] for row in training}
        right = axis.twinx()
        right.plot(
            [last_of_epoch[row["epoch"]] for row in scores],
            [row["AP"] for row in scores],
            "k.--",
            label="mAP",
        )
        right.set(ylabel="mAP", ylim=(0, None))
        more = right.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    axis.legend(handles, labels, loc="lower left" if len(scores) > 1 else "upper right")
    figure.tight_layout()
    figure.savefig(out)
    print(out)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
