"""Turns the MLPerf logs of a system into a submission package: layout, score, official checks.

The layout is that of MLCommons' submission rules (github.com/mlcommons/policies,
submission_rules.adoc, "Directory structure", Training). The score is the time to train: run_start
to run_stop, the mean without the fastest and the slowest run (training_rules.adoc, "Benchmark
Results").
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Any, Dict, List, Optional, Sequence

from ssd.errors import UserError
from ssd.mlperf import check_log
from ssd.rules import Rules

TOKEN = ":::MLLOG "
# Keys that must be the same in all runs of a submission, besides the hyperparameters.
SAME_SYSTEM = (
    "submission_org",
    "submission_platform",
    "submission_division",
    "submission_status",
    "submission_benchmark",
)
# The parts of this repository that are the implementation. The repository checker refuses names
# that begin with a dot.
IMPLEMENTATION = (
    "Dockerfile",
    "LICENSE",
    "README.md",
    "benchmarks",
    "docs",
    "prepare-json.py",
    "pyproject.toml",
    "run.sub",
    "run_and_time.sh",
    "run_with_docker.sh",
    "scripts",
    "setup.py",
    "ssd",
)
LAUNCHERS = {
    "docker": "./run_with_docker.sh",
    "slurm": 'sbatch -N "$NNODES" -t "$WALLTIME" run.sub',
}
# submission_status of a log -> "status" in a system's description, as required by rule sets since
# 4.0.0.
AVAILABILITY = {
    "onprem": "Available on-premise",
    "cloud": "Available cloud",
    "preview": "Preview",
    "research": "Research, Development, or Internal (RDI)",
}
# mlperf_logging/system_desc_checker requires these fields. The submission rules require a text in
# those marked True.
SYSTEM_FIELDS = {
    "submitter": True,
    "division": True,
    "status": True,
    "system_name": True,
    "number_of_nodes": True,
    "host_processors_per_node": True,
    "host_processor_model_name": True,
    "host_processor_core_count": True,
    "host_processor_vcpu_count": False,
    "host_processor_frequency": False,
    "host_processor_caches": False,
    "host_processor_interconnect": False,
    "host_memory_capacity": True,
    "host_storage_type": True,
    "host_storage_capacity": True,
    "host_networking": True,
    "host_networking_topology": True,
    "host_memory_configuration": True,
    "accelerators_per_node": True,
    "accelerator_model_name": True,
    "accelerator_host_interconnect": True,
    "accelerator_frequency": False,
    "accelerator_on-chip_memories": False,
    "accelerator_memory_configuration": True,
    "accelerator_memory_capacity": True,
    "accelerator_interconnect": True,
    "accelerator_interconnect_topology": False,
    "cooling": True,
    "hw_notes": False,
    "framework": True,
    "other_software_stack": True,
    "operating_system": True,
    "sw_notes": False,
}


@dataclasses.dataclass
class Trial:
    """One run, from its log."""

    path: str
    minutes: float  # run_start to run_stop
    epoch: float  # of the evaluation that reached the target
    accuracy: float  # mAP of that evaluation, a fraction
    seed: int
    system: Dict[str, Any]  # SAME_SYSTEM
    settings: Dict[str, Any]  # the hyperparameters of the rules, and every opt_*


@dataclasses.dataclass
class Package:
    """A package that was written."""

    folder: str
    trials: List[Trial]
    minutes: float  # the mean of the middle runs
    scaling: float  # the factor that the convergence check applies to the score: 1 or more
    convergence: str  # the result of the convergence check, as text
    empty_fields: List[str]  # of the system's description, in which the rules require a text


def read_trial(path, rules: Rules) -> Trial:
    """The run with the log `path`: an mlperf.log, or a trial's complete output, which includes
    these lines.

    Raises UserError, which names the log: no such file, an incomplete run, another benchmark than
    that of `rules`, resumed, target not reached.
    """
    path = os.fspath(path)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line[line.rindex(TOKEN) + len(TOKEN) :] for line in file if TOKEN in line]
        events = [json.loads(line) for line in lines]
        by_key: Dict[str, List[dict]] = {}
        for event in events:
            by_key.setdefault(event["key"], []).append(event)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: a line of the MLPerf log is cut short or damaged") from None
    for key in SAME_SYSTEM + tuple(rules.hyperparameters) + ("seed", "run_start"):
        if key not in by_key:
            raise UserError(f"{path}: no {key} in this log")
    if "resumed" in by_key:
        raise UserError(
            f"{path}: this run was resumed from a checkpoint, so its time does not count for a "
            "submission"
        )
    if "run_stop" not in by_key:
        raise UserError(f"{path}: the run is incomplete (no run_stop)")
    try:
        reached = [
            (event["metadata"]["epoch_num"], event["value"])
            for event in by_key.get("eval_accuracy", [])
            if rules.target <= event["value"]
        ]
        minutes = (by_key["run_stop"][-1]["time_ms"] - by_key["run_start"][0]["time_ms"]) / 60000
        success = by_key["run_stop"][-1]["metadata"]["status"] == "success"
        values = {key: entries[-1]["value"] for key, entries in by_key.items()}
    except (KeyError, TypeError):
        raise UserError(
            f"{path}: an event without the value or metadata that the rules require"
        ) from None
    if values["submission_benchmark"] != rules.benchmark:
        raise UserError(
            f"{path}: submission_benchmark is {values['submission_benchmark']!r}, not "
            f"{rules.benchmark!r}"
        )
    if not success or not reached:
        best = max((event["value"] for event in by_key.get("eval_accuracy", [])), default=None)
        raise UserError(
            f"{path}: the run did not reach the target mAP of {rules.target} (best: {best})"
        )
    if not isinstance(values["seed"], int):
        raise UserError(f"{path}: seed {values['seed']!r} is not an integer")
    settings = {
        key: value
        for key, value in values.items()
        if key in rules.hyperparameters or key.startswith("opt_")
    }
    return Trial(
        path,
        minutes,
        reached[0][0],
        reached[0][1],
        values["seed"],
        {key: values[key] for key in SAME_SYSTEM},
        settings,
    )


def read_trials(paths: Sequence, rules: Rules) -> List[Trial]:
    """The runs of one system with the same settings and different seeds; else UserError."""
    if len(paths) != rules.runs:
        raise UserError(f"a submission is {rules.runs} runs; these are {len(paths)} logs")
    trials = [read_trial(path, rules) for path in paths]
    first = trials[0]
    for trial in trials[1:]:
        for part in ("system", "settings"):
            ours, theirs = getattr(first, part), getattr(trial, part)
            for key in sorted(set(ours) | set(theirs)):
                if ours.get(key) != theirs.get(key):
                    raise UserError(
                        f"{trial.path}: {key} is {theirs.get(key)!r}, but {ours.get(key)!r} in "
                        f"{first.path}"
                    )
    seeds: Dict[int, str] = {}
    for trial in trials:
        if trial.seed in seeds:
            raise UserError(
                f"{trial.path}: has the same seed, {trial.seed}, as {seeds[trial.seed]}"
            )
        seeds[trial.seed] = trial.path
    return trials


def olympic_mean(minutes: Sequence[float]) -> float:
    """The mean without the smallest and the largest value."""
    assert len(minutes) > 2, minutes
    middle = sorted(minutes)[1:-1]
    return sum(middle) / len(middle)


def read_system(path, trials: Sequence[Trial]) -> Dict[str, str]:
    """The system's description (JSON, SYSTEM_FIELDS). UserError unless it is complete and matches
    the logs."""
    try:
        with open(os.fspath(path), encoding="utf-8") as file:
            system = json.load(file)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: no JSON: {error}") from None
    if not isinstance(system, dict):
        raise UserError(f"{path}: not a JSON object")
    missing = [name for name in SYSTEM_FIELDS if name not in system]
    if missing:
        raise UserError(f"{path}: missing: {', '.join(missing)}")
    for name, value in system.items():
        if not isinstance(value, str):
            raise UserError(f"{path}: {name} must be a text, not {value!r}")
    for name, key in (("submitter", "submission_org"), ("division", "submission_division")):
        if system[name] != trials[0].system[key]:
            raise UserError(
                f"{path}: {name} is {system[name]!r}, but {trials[0].system[key]!r} in the logs"
            )
    return system


def package(
    logs: Sequence,
    output,
    system_name: str,
    description,
    config: str,
    repository,
    *,
    rules: Rules,
    implementation: str = "mxnet",
    launcher: str = "docker",
) -> Package:
    """Writes the package of `logs` into `output`, a folder that does not exist or is empty.

    system_name: <system_desc_id> of the rules. description: its JSON file. config: the config_*.sh
    of the runs, in `repository`, the folder of this project. rules: the rule set of the runs, which
    must have a `ruleset`. launcher: the one of LAUNCHERS that ran them, for the package's
    run_and_time.sh. Writes nothing to `output` unless the compliance checker accepts every log, and
    the package and repository checkers accept the package. Raises UserError.
    """
    assert rules.ruleset is not None and rules.hyperparameters is not None, (
        "no checker for a run without rules"
    )
    output = os.path.abspath(os.fspath(output))
    for what, name in (("system", system_name), ("implementation", implementation)):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
            raise UserError(
                f"{what} {name!r}: use only letters, digits and . _ + - as folders get this name"
            )
    if os.path.lexists(output) and (not os.path.isdir(output) or os.listdir(output)):
        raise UserError(f"{output}: not an empty folder; nothing is overwritten")
    if os.path.basename(config) != config or not os.path.isfile(os.path.join(repository, config)):
        raise UserError(f"config {config!r}: no such file in {repository}")
    trials = read_trials(logs, rules)
    system = read_system(description, trials)
    for trial in trials:
        accepted, text = check_log(trial.path, rules.ruleset)
        if not accepted:
            raise UserError(f"{trial.path}: the compliance checker refuses it: {_complaint(text)}")

    parent = os.path.dirname(output)
    try:
        os.makedirs(parent, exist_ok=True)
        scratch = tempfile.mkdtemp(prefix=".package-", dir=parent)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}") from None
    try:
        # A subfolder: the repository checker refuses a name that begins with a dot.
        staging = os.path.join(scratch, "package")
        _write(
            staging,
            trials,
            system_name,
            system,
            config,
            repository,
            implementation,
            launcher,
            rules,
        )
        convergence = _check(staging, rules.ruleset)
        scaling = _scaling(
            os.path.join(staging, "results", system_name, rules.benchmark, "scaling.json")
        )
        os.rename(staging, output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    empty = [name for name, wanted in SYSTEM_FIELDS.items() if wanted and not system[name].strip()]
    return Package(
        output,
        trials,
        olympic_mean([trial.minutes for trial in trials]),
        scaling,
        convergence,
        empty,
    )


def _write(
    folder, trials, system_name, system, config, repository, implementation, launcher, rules: Rules
):
    benchmark = rules.benchmark
    results = os.path.join(folder, "results", system_name, benchmark)
    implementations = os.path.join(folder, "benchmarks", benchmark, "implementations")
    code, ours = (
        os.path.join(implementations, implementation),
        os.path.join(implementations, system_name),
    )
    for path in (results, os.path.join(folder, "systems"), code, ours):
        os.makedirs(path)
    for number, trial in enumerate(trials):
        shutil.copyfile(trial.path, os.path.join(results, f"result_{number}.txt"))
    _write_json(os.path.join(folder, "systems", system_name + ".json"), system)

    configs = tuple(
        sorted(name for name in os.listdir(repository) if re.fullmatch(r"config_\w+\.sh", name))
    )
    for name in IMPLEMENTATION + configs:
        source, target = os.path.join(repository, name), os.path.join(code, name)
        if os.path.isdir(source):
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        elif os.path.isfile(source):
            shutil.copy(source, target)

    _write_json(
        os.path.join(ours, f"{system_name}_{implementation}.json"),
        {
            "system": system_name,
            "implementation": implementation,
            "benchmark": benchmark,
            "config": config,
            "hyperparameters": trials[0].settings,
            "seeds": [trial.seed for trial in trials],
        },
    )
    with open(os.path.join(ours, "README.md"), "w", encoding="utf-8") as file:
        file.write(
            f"# MLPerf benchmark {benchmark} on {system_name}\n\n"
            f"The code is in [../{implementation}](../{implementation}), every step in its "
            "docs/launch.md. In this order:\n\n"
            "    ./setup.sh            # builds the container image CONT\n"
            f"    ./init_datasets.sh    # {rules.data_set} into DATADIR, the backbone into "
            "PRETRAINED_DIR\n"
            f"    ./run_and_time.sh     # the runs, with {config}: CONT, DATADIR, PRETRAINED_DIR, "
            "LOGDIR\n"
        )
    for name, lines in (
        ("setup.sh", ['docker build --pull -t "${CONT:?}" .']),
        ("init_datasets.sh", list(rules.downloads)),
        ("run_and_time.sh", [f". ./{config}", LAUNCHERS[launcher]]),
    ):
        path = os.path.join(ours, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(
                "\n".join(
                    [
                        "#!/usr/bin/env bash",
                        "set -euo pipefail",
                        f'cd -- "$(dirname -- "${{BASH_SOURCE[0]}}")/../{implementation}"',
                        *lines,
                        "",
                    ]
                )
            )
        os.chmod(path, 0o755)


def _write_json(path, content):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")


def _check(folder, ruleset: str) -> str:
    """The result of the convergence check. UserError with the complaint of the first checker that
    refuses the package."""
    text = _run_checker(folder, "package_checker", ruleset)
    if "PACKAGE CHECKER FOUND NO ERRORS" not in text:
        raise UserError(f"the package checker refuses the package: {_complaint(text)}")
    # The repository checker has no rules before 2.0.0. It checks names, sizes and links, the same
    # way for all rules.
    repo = _run_checker(folder, "repo_checker", "2.0.0" if ruleset.startswith("1.") else ruleset)
    if "ALL CHECKS PASSED" not in repo:
        raise UserError(f"the repository checker refuses the package: {_complaint(repo)}")
    found: Optional[Any] = re.search(r"RCP Test Passed: *(.*)", text)
    return found.group(1) if found else "not checked in the open division"


def _run_checker(folder, name, ruleset) -> str:
    # Relative to its parent: the checkers take the path as a pattern, in which brackets of the
    # parents would have a meaning.
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mlperf_logging." + name,
            os.path.basename(folder),
            "training",
            ruleset,
            "--log_output",
            os.devnull,
        ],
        cwd=os.path.dirname(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.stdout.decode(errors="replace")


def _complaint(text: str) -> str:
    """A checker's complaint on one line: its error lines, else its last line."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    errors = [
        line for line in lines if re.match(r"(ERROR|WARNING|CHECK for|FAILED|.*Error\b)", line)
    ]
    return "; ".join((errors or lines[-1:] or ["it printed nothing"])[:4])[:400]


def _scaling(path) -> float:
    """The factor that the convergence check wrote for a run that converged faster than its
    reference; else 1."""
    if not os.path.exists(path):
        return 1.0
    with open(path, encoding="utf-8") as file:
        return float(json.load(file)["scaling_factor"])
