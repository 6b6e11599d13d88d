#!/usr/bin/env python3
"""Makes an MLPerf submission package of the trial logs of a system, checks it and prints the score.

package_submission.py --describe LOG > SYSTEM.json     (on the system: a draft of its description,
                                                       to complete)
package_submission.py --output DIR --system NAME --description SYSTEM.json --config config_NAME.sh
LOG...
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)  # so that it runs from any folder, with or without the set-up

from ssd import ends  # noqa: E402

if __name__ == "__main__":
    ends.begin("package_submission.py")  # before anything that takes time

from ssd.errors import UserError  # noqa: E402
from ssd.rules import DEFAULT_RULES, RULES, Rules  # noqa: E402
from ssd.submission import (  # noqa: E402
    AVAILABILITY,
    LAUNCHERS,
    SYSTEM_FIELDS,
    Package,
    package,
    read_trial,
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="package_submission.py",
        allow_abbrev=False,
        description=(
            "Makes an MLPerf submission package of the trial logs of a system, has it checked by "
            "the official checkers and prints the score: the mean without the fastest and the "
            "slowest run, in minutes."
        ),
    )
    parser.add_argument(
        "logs",
        nargs="+",
        metavar="LOG",
        help="a trial's log or a run's mlperf.log; as many as the rules ask for",
    )
    parser.add_argument(
        "--rules",
        choices=sorted(name for name, rules in RULES.items() if rules.ruleset),
        default=DEFAULT_RULES,
        help=f"rule set of the runs [default: {DEFAULT_RULES}]",
    )
    parser.add_argument(
        "--describe",
        action="store_true",
        help="print a draft of this system's description, with what the first log and this machine "
        "tell, and exit",
    )
    parser.add_argument("--output", metavar="DIR", help="the package: a new or empty folder")
    parser.add_argument(
        "--system", metavar="NAME", help="name of the system, for folders and files"
    )
    parser.add_argument(
        "--description", metavar="FILE", help="the system's description, JSON (see --describe)"
    )
    parser.add_argument("--config", metavar="NAME", help="the config_*.sh of the runs")
    parser.add_argument(
        "--implementation",
        metavar="NAME",
        default="mxnet",
        help="name of the code's folder [default: mxnet]",
    )
    parser.add_argument(
        "--launcher",
        choices=sorted(LAUNCHERS),
        default="docker",
        help="what started the trials: the package's run_and_time.sh does the same "
        "[default: docker]",
    )
    return parser


def first_line(*command: str) -> str:
    """The first line that a program prints, or nothing if there is no such program."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except OSError:
        return ""
    return (done.stdout.splitlines() or [""])[0].strip() if done.returncode == 0 else ""


def file_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def describe(log: str, rules: Rules) -> dict:
    """SYSTEM_FIELDS with what `log` and this machine tell; the others are empty."""
    trial = read_trial(log, rules)
    cpus = file_text("/proc/cpuinfo")
    sockets = set(re.findall(r"^physical id\s*: (\d+)", cpus, re.M)) or {"0"}
    model = re.search(r"^model name\s*: (.*)", cpus, re.M)
    cores = re.search(r"^cpu cores\s*: (\d+)", cpus, re.M)
    memory = re.search(r"MemTotal:\s*(\d+) kB", file_text("/proc/meminfo"))
    operating_system = re.search(r'^PRETTY_NAME="?([^"\n]*)', file_text("/etc/os-release"), re.M)
    known = {
        "submitter": trial.system["submission_org"],
        "division": trial.system["submission_division"],
        "status": AVAILABILITY.get(trial.system["submission_status"], ""),
        "system_name": trial.system["submission_platform"],
        "host_processors_per_node": str(len(sockets)),
        "host_processor_model_name": model.group(1) if model else "",
        "host_processor_core_count": str(int(cores.group(1)) * len(sockets)) if cores else "",
        "host_processor_vcpu_count": str(os.cpu_count()),
        "host_memory_capacity": f"{round(int(memory.group(1)) / 2**20)}GB" if memory else "",
        "accelerators_per_node": first_line(
            "nvidia-smi", "--query-gpu=count", "--format=csv,noheader"
        )
        or "0",
        "accelerator_model_name": first_line(
            "nvidia-smi", "--query-gpu=name", "--format=csv,noheader"
        ),
        "accelerator_memory_capacity": first_line(
            "nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader"
        ),
        "framework": "MXNet",
        "operating_system": operating_system.group(1) if operating_system else "",
    }
    return {name: known.get(name, "") for name in SYSTEM_FIELDS}


def report(made: Package) -> str:
    """The score and how it was computed, as lines."""
    order = sorted(made.trials, key=lambda trial: trial.minutes)
    lines = [f"Package: {made.folder}"]
    for number, trial in enumerate(made.trials):
        dropped = (
            " (fastest, dropped)"
            if trial is order[0]
            else " (slowest, dropped)"
            if trial is order[-1]
            else ""
        )
        lines.append(
            f"  result_{number}.txt  {trial.minutes:9.3f} min  mAP {trial.accuracy:.4f} at epoch "
            f"{trial.epoch:g}  seed {trial.seed}  {trial.path}{dropped}"
        )
    lines.append(
        "  compliance, package and repository checkers: passed; convergence points: "
        f"{made.convergence}"
    )
    if made.scaling != 1:
        lines.append(
            f"  mean without the fastest and the slowest: {made.minutes:.3f} min, times "
            f"{made.scaling:.4f} because the runs converged in fewer epochs than the reference"
        )
    lines.append(f"Score: {made.minutes * made.scaling:.3f} minutes")
    if made.empty_fields:
        lines.append(f"Still empty in the system's description: {', '.join(made.empty_fields)}")
    return "\n".join(lines)


def main(arguments=None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        if options.describe:
            print(json.dumps(describe(options.logs[0], RULES[options.rules]), indent=1))
            return 0
        missing = [
            name
            for name in ("output", "system", "description", "config")
            if not getattr(options, name)
        ]
        if missing:
            raise UserError("needed: " + ", ".join("--" + name for name in missing))
        print(
            report(
                package(
                    options.logs,
                    options.output,
                    options.system,
                    options.description,
                    options.config,
                    ROOT,
                    rules=RULES[options.rules],
                    implementation=options.implementation,
                    launcher=options.launcher,
                )
            )
        )
    except UserError as error:
        print(f"package_submission.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    ends.run(main)
