"""How time and memory grow with the work: the numbers of growth.md.

    python benchmarks/growth.py --list
    python benchmarks/growth.py --axes load match [--points 1000 10000] [--rounds 3] [--json FILE]
    [--folder FOLDER]

Every point of an axis is a process of its own, once in each round; its peak memory is what the
kernel counts of it (VmHWM; the ru_maxrss of a child starts with its parent's). "MB" is what the
measured part added to the process at its peak. The exponent of a growth is the slope of a straight
line through the points' logarithms, by least squares; "last" is that of the two largest points
alone, where constant costs weigh least. Other processes make what an axis needs, annotation files
for example, in FOLDER, once; a FOLDER that is named is kept for the next call. A point that takes
longer than --limit is abandoned, and the larger ones with it.

    python benchmarks/growth.py --axes load --points 1000 10000 --rounds 1

takes half a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks.growth_axes import AXES, Axis, Measure
from benchmarks.turns import machine

LEAST_MB = 1.0  # below this an exponent of memory means nothing


def exponent(amounts: Sequence[float], values: Sequence[float]) -> float:
    """The slope of log(values) over log(amounts), by least squares; nan with fewer than two
    points."""
    points = [
        (np.log(amount), np.log(value))
        for amount, value in zip(amounts, values)
        if amount > 0 and value > 0
    ]
    return float(np.polyfit(*zip(*points), 1)[0]) if len(points) > 1 else float("nan")


def child(
    axis: str, point: str, folder: str, prepare: bool = False, limit: Optional[float] = None
) -> Optional[dict]:
    """What a point's process measured, by series; None where it took longer than `limit` seconds or
    died."""
    command = [
        sys.executable,
        os.path.abspath(__file__),
        "--prepare" if prepare else "--child",
        axis,
        point,
        folder,
    ]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        print(f"{axis} {point}: ended with status {done.returncode}", file=sys.stderr, flush=True)
        return None
    return json.loads(done.stdout.splitlines()[-1]) if not prepare else {}


def measure_axis(
    axis: Axis, points: Sequence[str], rounds: int, folder: str, limit: float
) -> Dict[str, list]:
    """By series: a dict for each point: point, amount, seconds [rounds], megabytes [rounds],
    notes."""
    found: Dict[str, Dict[str, dict]] = {}
    points = list(points)
    for point in points:
        if axis.prepare is not None and child(axis.name, point, folder, prepare=True) is None:
            raise SystemExit(f"{axis.name} {point}: cannot be prepared")
    for _ in range(rounds):
        for point in list(points):
            result = child(axis.name, point, folder, limit=limit)
            if result is None:
                print(
                    f"{axis.name} {point}: abandoned, and the larger ones",
                    file=sys.stderr,
                    flush=True,
                )
                points = points[: points.index(point)]
                break
            for series, one in result.items():
                entry = found.setdefault(series, {}).setdefault(
                    point,
                    dict(
                        point=point,
                        amount=axis.amount(point),
                        seconds=[],
                        megabytes=[],
                        notes=one["notes"],
                    ),
                )
                entry["seconds"].append(one["seconds"])
                entry["megabytes"].append(one["megabytes"])
    return {series: list(entries.values()) for series, entries in found.items()}


def exponents(entries: List[dict]) -> Dict[str, float]:
    """Of one series: seconds and megabytes over all points, and over the last two."""
    result = {}
    for name in ("seconds", "megabytes"):
        chosen = [(entry["amount"], statistics.median(entry[name])) for entry in entries]
        if name == "megabytes":
            chosen = [pair for pair in chosen if pair[1] >= LEAST_MB]
        result[name] = exponent(*zip(*chosen)) if chosen else float("nan")
        result["last " + name] = exponent(*zip(*chosen[-2:])) if chosen else float("nan")
    return result


def with_spread(values: Sequence[float]) -> str:
    """Median (least to most), three digits."""

    def short(value):
        return f"{value:#.3g}".rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"

    middle = short(statistics.median(values))
    return (
        middle if len(values) == 1 else f"{middle} ({short(min(values))} to {short(max(values))})"
    )


def table(axis: Axis, series: str, entries: List[dict]) -> List[str]:
    """Lines of Markdown: a row for each point, then the exponents."""
    notes = sorted({name for entry in entries for name in entry["notes"]})
    lines = [
        f"### {axis.title}" + (f": {series}" if series else ""),
        "",
        "| " + " | ".join([axis.unit, *notes, "seconds", "MB"]) + " |",
        "|---" * (3 + len(notes)) + "|",
    ]
    for entry in entries:
        cells = [
            entry["point"] if not entry["point"].isdigit() else f"{int(entry['point']):,}",
            *(f"{entry['notes'].get(name, 0):,}" for name in notes),
            with_spread(entry["seconds"]),
            with_spread(entry["megabytes"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    grown = exponents(entries)
    return lines + [
        "",
        f"Exponents: seconds {grown['seconds']:.2f} (last {grown['last seconds']:.2f}), MB "
        f"{grown['megabytes']:.2f} (last {grown['last megabytes']:.2f}); at least {axis.must}",
        "",
    ]


def chosen_axes(names: Sequence[str]) -> List[Axis]:
    """The axes of these names or groups, in the order of the table; all without a name. SystemExit
    for another."""
    known = {axis.name for axis in AXES} | {axis.group for axis in AXES}
    for name in names:
        if name not in known:
            raise SystemExit(f"--axes {name}: not one of {', '.join(sorted(known))}")
    return [axis for axis in AXES if not names or {axis.name, axis.group} & set(names)]


def run_child(axis: str, point: str, folder: str, prepare: bool) -> None:
    """In a point's own process: its measurements as one line of JSON, the last one."""
    with open(
        "/proc/self/oom_score_adj", "w", encoding="ascii"
    ) as file:  # if memory runs out, the system ends this process first
        file.write("1000")
    chosen = next(one for one in AXES if one.name == axis)
    if prepare:
        chosen.prepare(point, folder)
        return
    measure = Measure()
    chosen.measure(point, folder, measure)
    print("\n" + json.dumps(measure.results))


def parse(argv) -> Tuple[argparse.Namespace, List[Axis]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--axes",
        nargs="+",
        default=[],
        metavar="NAME",
        help="of --list: axes or groups [default: all]",
    )
    parser.add_argument(
        "--points", nargs="+", metavar="N", help="instead of the axis' own, ascending"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=200, metavar="SECONDS")
    parser.add_argument(
        "--folder", help="where files are made, and kept [default: a temporary folder]"
    )
    parser.add_argument("--json", metavar="FILE", help="add what was measured to this file too")
    parser.add_argument("--list", action="store_true", help="name the axes and their points")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    return args, chosen_axes(args.axes)


def main(argv=None) -> None:
    args, axes = parse(argv)
    if args.child or args.prepare:
        run_child(*(args.child or args.prepare), prepare=bool(args.prepare))
        return
    if args.list:
        for axis in axes:
            print(
                f"{axis.group:<8} {axis.name:<14} {axis.title}; {axis.unit}: "
                f"{' '.join(axis.points)}"
            )
        return
    results = {}
    if args.json and os.path.exists(args.json):
        with open(args.json, encoding="utf-8") as file:
            results = json.load(file)
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = os.path.abspath(args.folder or temporary)
        os.makedirs(folder, exist_ok=True)
        for axis in axes:
            found = measure_axis(axis, args.points or axis.points, args.rounds, folder, args.limit)
            results[axis.name] = found
            for series, entries in found.items():
                print("\n".join(table(axis, series, entries)), flush=True)
            if args.json:
                with open(args.json, "w", encoding="utf-8") as file:
                    json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
