"""The parts of a report that describe a run: outcome, curves, MLPerf compliance."""

from __future__ import annotations

import base64
import csv
import glob
import json
import os
import re
import shlex
from html import escape
from typing import Dict, List, NamedTuple, Optional, Tuple

from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.evaluation.scored_set import images_and_objects
from ssd.report.page import Section, facts
from ssd.rules import DEFAULT_RULES, RULES, Rules

EXTENT = ("images", "objects")  # columns of evaluation.csv that older versions did not write


class RunParts(NamedTuple):
    """tiles: numbers on top of the page, see page.page; summary: HTML; curves, compliance: at most
    one Section each."""

    tiles: List[Tuple[str, str, str]]
    summary: str
    curves: List[Section]
    compliance: List[Section]


def read_run_parts(folder: str) -> RunParts:
    """The parts that can be made from a run's folder; those whose files are missing are empty."""
    outcome = _read_json(os.path.join(folder, "summary.json"))
    scores = read_evaluations(folder)
    return RunParts(
        _tiles(outcome), _summary(folder, outcome, scores), _curves(folder), _compliance(folder)
    )


def read_evaluations(folder: str) -> List[Dict[str, float]]:
    """The complete rows of evaluation.csv: epoch, COCO's twelve numbers and, if the run wrote them,
    EXTENT; [] without a file."""
    try:
        with open(os.path.join(folder, "evaluation.csv"), newline="", encoding="utf-8") as file:
            rows = [
                {name: value for name, value in row.items() if value != "" or name not in EXTENT}
                for row in csv.DictReader(file)
            ]
            return [
                {name: float(value) for name, value in row.items()}
                for row in rows
                if None not in row.values() and "" not in row.values()
            ]
    except (OSError, ValueError, AttributeError):
        return []


def extent_text(row: Dict[str, float]) -> str:
    """ " on 24 images, 80 objects" for a row of read_evaluations; "" if it has no EXTENT."""
    return (
        f" on {images_and_objects(*(int(row[name]) for name in EXTENT))}"
        if all(name in row for name in EXTENT)
        else ""
    )


def newest_part(folder: str, name: str) -> Optional[str]:
    """Path of the newest of NAME.EXT, NAME-2.EXT, ..., which the parts of a resumed run write;
    None without any."""
    stem, extension = os.path.splitext(name)
    found = {1: os.path.join(folder, name)} if os.path.isfile(os.path.join(folder, name)) else {}
    for path in glob.glob(os.path.join(glob.escape(folder), f"{stem}-*{extension}")):
        number = re.fullmatch(
            re.escape(stem) + r"-(\d+)" + re.escape(extension), os.path.basename(path)
        )
        if number:
            found[int(number.group(1))] = path
    return found[max(found)] if found else None


def duration(seconds: float) -> str:
    """Seconds as text: 45 s, 2 min 5 s, 3 h 7 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _tiles(outcome: dict) -> list:
    if not outcome:
        return [("unfinished", "this run has not ended", "bad")]
    reached = outcome.get("status") == "success"
    seconds = float(outcome.get("seconds", 0)) + float(outcome.get("seconds_before", 0))
    value, style = ("reached", "good") if reached else ("not reached", "bad")
    return [
        (value, f"target mAP {outcome.get('target')}", style),
        (duration(seconds), "time to target" if reached else "time", ""),
    ]


def _summary(folder: str, outcome: dict, scores) -> str:
    best = max(scores, key=lambda row: row["AP"]) if scores else None
    rows = [
        ("run", folder),
        ("seed", str(outcome.get("seed", ""))),
        ("ranks", str(outcome.get("ranks", ""))),
    ]
    if outcome.get("steps"):
        rows.append(("trained", f"{outcome['steps']:,} steps, {outcome.get('images', 0):,} images"))
    if best:
        last = scores[-1]["epoch"]
        rows.append(
            (
                "best",
                f"mAP {best['AP']:.4f}{extent_text(best)} after epoch {best['epoch']:.0f}"
                + (
                    ""
                    if last == best["epoch"]
                    else f"; this report shows the last evaluation, of epoch {last:.0f}"
                ),
            )
        )
    if outcome.get("skipped_steps"):
        rows.append(("skipped", f"{outcome['skipped_steps']} steps, because float16 overflowed"))
    return facts(rows) + _versions(_read_json(newest_part(folder, "versions.json") or ""))


def _versions(content: dict) -> str:
    """versions.json: software and machine as a table, all installed packages folded away."""

    def as_text(value):
        if isinstance(value, dict):
            return ", ".join(
                f"{name} {as_text(part)}"
                for name, part in value.items()
                if part not in (None, "", {}, [])
            )
        return (
            " ".join(map(str, value))
            if isinstance(value, list)
            else ""
            if value is None
            else str(value)
        )

    def table(names):
        return facts([(label, as_text(content.get(name))) for label, name in names])

    if not content:
        return ""
    content = dict(content)
    code, cpu, line = (content.get(name) for name in ("code", "cpu", "command_line"))
    if isinstance(code, dict) and code.get("commit"):
        content["code"] = f"commit {code['commit']}" + (
            ", with changes" if code.get("changed") else ""
        )
    if isinstance(cpu, dict) and cpu.get("model"):
        content["cpu"] = f"{cpu['model']}, {cpu.get('usable_cores', cpu.get('cores'))} cores"
    if isinstance(line, list):
        content["command_line"] = " ".join(shlex.quote(str(part)) for part in line)
    more = table([("packages", "packages"), ("environment", "environment"), ("kernel", "kernel")])
    return (
        table(
            [
                ("software", "loaded"),
                ("Python", "python"),
                ("code", "code"),
                ("command", "command_line"),
                ("machine", "cpu"),
                ("GPUs", "gpus"),
                ("system", "os"),
            ]
        )
        + f"<details><summary>all packages and variables</summary>{more}</details>"
    )


def _curves(folder: str) -> List[Section]:
    from ssd.report.curves import curve_figures

    try:
        drawn = curve_figures(folder)
    except UserError:  # a run without a training step
        drawn = []
    figures = "".join(
        f'<figure><h3>{escape(title)}</h3><img alt="{escape(title)}" src="{_as_uri(svg)}"></figure>'
        for title, svg in drawn
    )
    return (
        [Section("curves", "Training", f'<div class="curves">{figures}</div>')] if figures else []
    )


def _as_uri(svg: str) -> str:
    """An SVG as a separate image, so that its ids and styles do not mix with the page's."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _compliance(folder: str) -> List[Section]:
    """The result of the official compliance checker for each log of the run; empty if the run
    follows no rules."""
    from ssd.mlperf import check_log

    ruleset, parts = _rules(folder).ruleset, []
    if ruleset is None:
        return []
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "mlperf*.log"))):
        name = os.path.basename(path)
        try:
            accepted, output = check_log(path, ruleset)
        except UserError as error:
            parts.append(f"<p>{escape(name)}: not checked: {escape(str(error))}</p>")
            continue
        result = "accepted" if accepted else "not accepted"
        parts.append(
            f'<p><b class="{"good" if accepted else "bad"}">{result}</b>: {escape(name)}, by the '
            f"official compliance checker (training, rules {ruleset})</p>"
            "<details><summary>output of the checker</summary>"
            f"<pre>{escape(output[-6000:])}</pre></details>"
        )
    return [Section("mlperf", "MLPerf", "".join(parts))] if parts else []


def _rules(folder: str) -> Rules:
    """The rules of the run; the default ones if its settings cannot be read."""
    recipe = newest_part(folder, "recipe.yaml")
    try:
        return RULES[load_recipe(recipe).run.rules if recipe else DEFAULT_RULES]
    except UserError:
        return RULES[DEFAULT_RULES]


def _read_json(path: str) -> dict:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}
