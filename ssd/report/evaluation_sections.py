"""The parts of a report that show an evaluation (ssd.evaluation.per_class.Evaluation)."""

from __future__ import annotations

from html import escape

import numpy as np

from ssd.evaluation.confusion import ConfusionCounts
from ssd.evaluation.per_class import RECALLS, Evaluation
from ssd.report import charts
from ssd.report.example_images import ExampleImages, examples, worst
from ssd.report.page import fraction

# COCO's twelve numbers explained; sizes are areas in the original image
SENTENCES = {
    "AP": "average precision: mean over classes and IoU thresholds .50 to .95; the benchmark's mAP",
    "AP50": "average precision at IoU threshold .50",
    "AP75": "average precision at IoU threshold .75",
    "APs": "AP of small objects, below 32 x 32 pixels",
    "APm": "AP of medium objects, up to 96 x 96 pixels",
    "APl": "AP of large objects",
    "AR1": "average recall with one detection per image and class",
    "AR10": "average recall with ten detections per image and class",
    "AR100": "average recall with a hundred detections per image and class",
    "ARs": "AR100 of small objects",
    "ARm": "AR100 of medium objects",
    "ARl": "AR100 of large objects",
}
EXAMPLES, WORST = 12, 8  # numbers of images shown
TALL = 30  # tables with so many classes or more scroll
MANY = 100  # with more classes the confusion matrix scrolls both ways


def numbers(stats) -> str:
    """A table of COCO's twelve numbers. stats: name to number in [0, 1], -1 where undefined."""
    rows = "".join(
        f'<tr><td><b>{name}</b></td><td class="number">{fraction(stats[name])}</td>'
        f'<td class="wide">{charts.bar(stats[name])}</td>'
        f'<td class="sentence soft">{escape(sentence)}</td></tr>'
        for name, sentence in SENTENCES.items()
    )
    return f"<table>{rows}</table>{_undefined(min(stats.values()) < 0)}"


def _undefined(shown: bool) -> str:
    note = '<p class="note">– is undefined: the data set has no object of this kind.</p>'
    return note if shown else ""


def classes(evaluation: Evaluation) -> str:
    """AP by class: a sortable table with bars."""
    heads = "".join(
        f"<th{style}>{name}</th>"
        for name, style in (
            ("class", ""),
            ("AP", ' class="number"'),
            ("", ' class="wide"'),
            ("AP50", ' class="number"'),
            ("AP75", ' class="number extra"'),
            ("objects", ' class="number"'),
            ("detections", ' class="number extra"'),
        )
    )
    rows = []
    for row in sorted(evaluation.per_class(), key=lambda row: (-row["AP"], row["name"])):
        cells = [
            f'<td data-value="{escape(row["name"])}">{escape(row["name"])}</td>',
            _number(row["AP"]),
            f'<td class="wide">{charts.bar(row["AP"])}</td>',
            _number(row["AP50"]),
            _number(row["AP75"], " extra"),
        ]
        cells += [
            f'<td class="number{extra}" data-value="{row[name]}">{row[name]:,}</td>'
            for name, extra in (("objects", ""), ("detections", " extra"))
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    tall = " tall" if len(rows) >= TALL else ""
    return (
        f'<div class="scroll{tall}"><table class="sortable"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{_undefined(bool((evaluation.ap < 0).any()))}"
    )


def _number(value: float, style: str = "") -> str:
    return f'<td class="number{style}" data-value="{value:.6f}">{fraction(value)}</td>'


def precision_recall(evaluation: Evaluation) -> str:
    """Precision-recall curves, of all classes together and of each."""
    overall = charts.precision_recall_chart(
        [
            ("IoU .50", "strong", evaluation.mean_curve(0.5)),
            ("IoU .75", "middle", evaluation.mean_curve(0.75)),
            ("mean .50:.95", "faint", evaluation.mean_curve()),
        ],
        RECALLS,
    )
    small, names = [], evaluation.category_names
    for index in sorted(
        range(len(evaluation.ap)), key=lambda index: (-evaluation.ap[index], names[index])
    ):
        if evaluation.ap[index] < 0:
            continue
        name, ap50, ap75 = names[index], evaluation.ap50[index], evaluation.ap75[index]
        curves = [
            (style, evaluation.mean_curve(iou, index))
            for style, iou in (("middle", 0.75), ("strong", 0.5))
        ]
        note = f"AP50 {fraction(ap50)}, AP75 {fraction(ap75)}"
        small.append(
            f"<figure>{charts.small_curve(name, note, curves, RECALLS)}"
            f"<figcaption><span>{escape(name)}</span> {fraction(ap50, 2)}</figcaption></figure>"
        )
    tall = " scroll tall" if len(small) >= TALL else ""
    return (
        '<p class="soft">COCO\'s precision at 101 recalls, averaged over the classes; the area '
        f"below a line is its AP.</p>{overall}<h3>By class</h3>"
        '<p class="soft">IoU .50 (strong line, with its AP50) and .75; both axes from 0 to 1.</p>'
        f'<div class="multiples{tall}">{"".join(small)}</div>'
    )


def confusion(evaluation: Evaluation, counts: ConfusionCounts) -> str:
    """The confusion matrix and its largest off-diagonal entries."""
    matrix, names = counts.matrix, list(evaluation.category_names)
    classes = len(names)
    right, found, objects = (
        int(np.trace(matrix)),
        int(matrix[:, :classes].sum()),
        int(matrix[:classes].sum()),
    )
    unmatched = int(matrix[classes, :classes].sum())
    text = (
        f"<p>The detections that score at least {counts.threshold:.2f}, in descending order of "
        "score, each take the object that they overlap most with IoU at least .50, whatever its "
        f"class. This threshold gives the highest F1. Of {objects:,} objects {right:,} were found "
        f"with the right class; of {found:,} detections {unmatched:,} match no object.</p>"
        '<p class="soft">Rows are the truth, columns the prediction; the shade of a cell is its '
        "fraction of the row. Column background: objects not found; row background: detections "
        "without an object. Crowd regions are left out.</p>"
    )
    hidden = int((matrix > 0).sum()) - int(charts.drawn_cells(matrix).sum())
    if hidden:
        text += f'<p class="soft">The {hidden:,} smallest off-diagonal cells are left out.</p>'
    wrong = matrix[:classes, :classes] * ~np.eye(classes, dtype=bool)
    pairs = np.argsort(-wrong, axis=None, kind="stable")[:10]
    pairs = [
        pair
        for pair in zip(*(axis.tolist() for axis in np.unravel_index(pairs, wrong.shape)))
        if wrong[pair]
    ]
    table = ""
    if pairs and classes > 2:
        rows = "".join(
            f'<tr><td>{escape(names[row])}</td><td>{escape(names[column])}</td><td class="number">'
            f'{matrix[row, column]:,}</td><td class="number">'
            f"{100 * matrix[row, column] / matrix[row].sum():.1f} %</td></tr>"
            for row, column in pairs
        )
        table = (
            "<h3>Most often confused</h3><div "
            'class="scroll"><table><thead><tr><th>object</th><th>found as</th>'
            '<th class="number">times</th><th class="number">of the objects</th></tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )
    both = " all" if classes > MANY else ""
    return f'{text}<div class="scroll{both}">{charts.matrix_chart(matrix, names)}</div>{table}'


def detections(images: ExampleImages) -> str:
    """Example images with ground truth and detections."""
    chosen = examples(images.evaluation, EXAMPLES)
    legend = images.legend[:1].upper() + images.legend[1:]
    return (
        '<p class="soft">Ground truth (dashed), and beside it the detections that score at least '
        f"{images.threshold:.2f}; images evenly spaced over the data set. {escape(legend)}</p>"
        '<div class="pictures">' + "".join(images.figure(image) for image in chosen) + "</div>"
    )


def worst_images(images: ExampleImages, counts: ConfusionCounts) -> str:
    """The images with the most mistakes; empty without mistakes."""
    chosen = worst(counts, WORST)
    if not chosen:
        return ""
    return (
        f'<p class="soft">The most mistakes at score {counts.threshold:.2f} and IoU .50: objects '
        "not found or of the wrong class, and detections without an object.</p>"
        '<div class="pictures">'
        + "".join(images.figure(image, note) for image, note in chosen)
        + "</div>"
    )
