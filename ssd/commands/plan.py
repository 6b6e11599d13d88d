"""`python -m ssd plan`: the epochs, time, traffic and memory of a run on given nodes and GPUs."""

from __future__ import annotations

import argparse
import glob
import json
import math
import os
import subprocess
from typing import Any, Dict, List, NamedTuple, Optional

from ssd.commandline import DEFAULT_RECIPE, Parser, add_settings, format_bytes, read_settings
from ssd.config import SECTIONS, SETTINGS, Config, load_recipe
from ssd.errors import UserError
from ssd.training.mlperf_results import BENCHMARKS, Benchmark, benchmark_of

HELP = "predict epochs, time, traffic and memory of a run on given nodes and GPUs"
USAGE = "%(prog)s --nodes N --gpus G [flags]"
PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def add_arguments(parser) -> None:
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes [default: 1]")
    parser.add_argument("--gpus", type=int, metavar="G", help="GPUs per node, one rank each")
    parser.add_argument(
        "--benchmark",
        choices=tuple(BENCHMARKS),
        help="whose recipe, configs and published results [default: the recipe's, and ssd without "
        "--recipe]",
    )
    parser.add_argument(
        "--batch",
        dest="training.batch_size",
        default=argparse.SUPPRESS,
        metavar="B",
        help="as --batch-size: images per GPU and step [default: of the config_*.sh with so many "
        "nodes and GPUs, else the recipe's]",
    )
    parser.add_argument(
        "--images-per-second",
        type=float,
        metavar="X",
        help="training speed over all GPUs [default: from a published result, scaled by GPUs]",
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object")
    parser.add_argument(
        "--check",
        action="store_true",
        help="instead compare expected and published epochs and minutes of published results",
    )
    add_settings(parser, ("training", "model", "evaluation"))
    group = parser.add_argument_group("data (for main memory and reading)")
    for name in ("decode", "cache_size", "prefetch"):
        group.add_argument(
            "--" + name.replace("_", "-"),
            dest="data." + name,
            default=argparse.SUPPRESS,
            metavar="X",
            help=SETTINGS[name][1].metadata["help"],
        )


class SystemConfig(NamedTuple):
    """A config_*.sh."""

    name: str
    nodes: int
    gpus: int
    batch: int
    flags: List[str]  # as run_and_time.sh gives them to `python -m ssd train`

    @property
    def global_batch(self) -> int:
        return self.nodes * self.gpus * self.batch


def read_config(path: str, recipe: str) -> Optional[SystemConfig]:
    """The exports of a config_*.sh; None if it is for another recipe or cannot be read."""
    try:
        shown = subprocess.run(
            ["env", "-i", "bash", "-c", 'source "$1" && env -0', "bash", path],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )
        values: Dict[str, str] = dict(
            line.split("=", 1) for line in shown.stdout.decode().rstrip("\0").split("\0")
        )
        if values["RECIPE"] != recipe:
            return None
        flags = [
            "--recipe",
            recipe,
            "--batch-size",
            values["BATCHSIZE"],
            "--epochs",
            values["NUMEPOCHS"],
            *values["EXTRA_PARAMS"].split(),
        ]
        return SystemConfig(
            os.path.basename(path),
            int(values["NNODES"]),
            int(values["NGPU"]),
            int(values["BATCHSIZE"]),
            flags,
        )
    except (OSError, subprocess.SubprocessError, KeyError, ValueError):
        return None


def system_configs(recipe: str = DEFAULT_RECIPE) -> List[SystemConfig]:
    """All config_*.sh of this repository, or of the installed package, for a benchmark's recipe."""
    folder = os.path.join(PACKAGE, "configs")  # setup.py puts them there
    if not os.path.isdir(folder):
        folder = os.path.dirname(PACKAGE)
    found = (
        read_config(path, recipe)
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), "config_*.sh")))
    )
    return [config for config in found if config is not None]


def settings_with(config: SystemConfig, flags: Dict[str, Any]) -> Config:
    """The settings of a config_*.sh: its recipe, overridden by its flags, overridden by `flags`
    ('section.name' -> value)."""
    parser = Parser(prog=config.name)
    add_settings(parser, SECTIONS)
    args = parser.parse_args(config.flags)
    vars(args).update(flags)
    return read_settings(args)


def run(args) -> int:
    from ssd.training.plan import check_published, make_plan

    benchmark = chosen_benchmark(args)
    if args.check:
        rows = check_published(benchmark)
        print(json.dumps(rows) if args.json else format_check(rows, benchmark))
        return 0
    if args.gpus is None:
        raise UserError("--gpus: the number of GPUs per node is needed")
    flags = {name: value for name, value in vars(args).items() if "." in name}
    batch = str(flags.get("training.batch_size", ""))
    configs = system_configs(benchmark.recipe)
    fitting = [
        config
        for config in configs
        if (config.nodes, config.gpus) == (args.nodes, args.gpus)
        and batch in ("", str(config.batch))
    ]
    used = fitting[0] if fitting and args.recipe is None else None
    config = settings_with(used, flags) if used else read_settings(args, recipe=benchmark.recipe)
    plan = make_plan(config, args.nodes, args.gpus, args.images_per_second)
    plan["config"] = fitting[0].name if fitting else None
    plan["notes"] = notes_on(plan, used, configs, benchmark)
    print(json.dumps(plan) if args.json else format_plan(plan))
    return 0


def chosen_benchmark(args) -> Benchmark:
    """The benchmark of --recipe, else of --benchmark; UserError if the two disagree."""
    named = BENCHMARKS[args.benchmark or "ssd"]
    if args.recipe is None:
        return named
    config = load_recipe(args.recipe)
    found = benchmark_of(config)
    if args.benchmark and found is not named:
        raise UserError(
            f"--benchmark {args.benchmark}: needs the rules {named.rules_text}, but those of "
            f"recipe {config.recipe} are {config.run.rules}"
        )
    return found or named  # make_plan refuses a recipe of no benchmark


def notes_on(
    plan: dict, used: Optional[SystemConfig], configs: List[SystemConfig], benchmark: Benchmark
) -> List[str]:
    """Notes on the numbers: which config_*.sh fits, and where published runs differ."""
    notes = []
    if used:
        notes.append(f"{used.name} is for this system; its settings are used")
    elif plan["config"]:
        notes.append(
            f"{plan['config']} is for this system; as --recipe is given, its settings are not used"
        )
    elif configs:
        nearest = min(
            configs, key=lambda config: abs(math.log(config.global_batch / plan["global_batch"]))
        )
        notes.append(
            f"no config_*.sh fits; by global batch {nearest.name} is nearest "
            f"({nearest.global_batch:,}). Learning rate, warm-up and decay are the recipe's and "
            "the flags', which no published run had at this batch"
        )
    if plan["batch_norm_span"] < benchmark.smallest_batch_norm:
        notes.append(
            f"BatchNorm sees {plan['batch_norm_span']} images together; published runs had at "
            f"least {benchmark.smallest_batch_norm}, in groups of GPUs (--batch-norm-ranks): "
            "expect more epochs, or that the target is missed"
        )
    if plan["decode"] == "cache":
        notes.append(benchmark.cache_note)
    notes.append(benchmark.score_note)
    return notes + [benchmark.memory_note] * bool(benchmark.memory_note)


def format_plan(plan: dict) -> str:
    """The plan as text: one line per item, then notes."""
    base = (
        f"{plan['base_learning_rate']:g} scaled"
        if plan["learning_rate_is_scaled"]
        else "independent of the batch"
    )
    decays = ", ".join(
        f"{epoch} (step {step:,})" for epoch, step in zip(plan["decay_epochs"], plan["decay_steps"])
    )
    lines = [
        (
            "system",
            f"{plan['nodes']} x {plan['gpus_per_node']} GPUs, batch {plan['batch_size']} each"
            + f", BatchNorm over {plan['batch_norm_span']}"
            * (plan["batch_norm_span"] != plan["batch_size"]),
        ),
        ("global batch", f"{plan['global_batch']:,}"),
        ("config", plan["config"] or "none"),
        (
            "learning rate",
            f"{plan['peak_learning_rate']:.6g} at its peak ({base}), weight decay "
            f"{plan['weight_decay']:g}",
        ),
        ("warm-up", f"{plan['warmup_epochs']:g} epochs, {plan['warmup_steps']:,} steps"),
        ("decay after epochs", decays or "never"),
        ("steps per epoch", f"{plan['steps_per_epoch']:,}"),
        (
            "epochs to target",
            f"{plan['expected_epochs']:.1f} of at most {plan['max_epochs']} "
            f"({plan['expected_steps']:,} steps): {plan['expected_epochs_source']}",
        ),
        ("evaluations", f"{plan['evaluations']}"),
        (
            "throughput",
            f"{plan['images_per_second']:,.0f} images/s: {plan['images_per_second_source']}",
        ),
        (
            "minutes to target",
            f"{plan['expected_minutes']:.3g}"
            + (f" (published: {plan['published_minutes']:g})" if plan["published_minutes"] else ""),
        ),
        (
            "gradients",
            f"{format_bytes(plan['gradient_bytes'])} a step; each GPU sends "
            f"{format_bytes(plan['allreduce_bytes_per_gpu_and_step'])} in a ring, "
            f"{format_bytes(plan['allreduce_bytes_per_gpu_and_second'])}/s",
        ),
        (
            "files read",
            f"{format_bytes(plan['file_bytes_per_image'])} an image, "
            f"{format_bytes(plan['read_bytes_per_second'])}/s, "
            f"{format_bytes(plan['read_bytes_per_node_and_second'])}/s a node"
            + (
                f"; after epoch 1, {100 * plan['read_share_after_first_epoch']:.0f}% of that, in "
                f"as many files (cache, of {100 * plan['cached_share']:.0f}% of the images)"
                if plan["cached_share"]
                else ""
            ),
        ),
        (
            "host memory, data",
            f"{format_bytes(plan['host_memory_per_rank'])} a rank, "
            f"{format_bytes(plan['host_memory_per_node'])} a node",
        ),
    ]
    if plan["storage_bytes"]:
        lines.insert(-1, ("data set", format_bytes(plan["storage_bytes"])))
    return "\n".join(
        [f"{name:<20}{text}" for name, text in lines] + [f"note: {note}" for note in plan["notes"]]
    )


def format_check(rows: List[dict], benchmark: Benchmark) -> str:
    """Expected and published values, one line per result, and where the epochs come from."""
    lines = [
        f"{'':38}{'global':>7}{'epochs to target':>29}{'minutes':>32}",
        f"{'':38}{'batch':>7}" + 2 * f"{'expected':>12}{'published':>11}{'error':>8}",
    ]
    for row in rows:
        expected, wrong = "-", ""
        if row["expected_minutes"]:
            expected, wrong = f"{row['expected_minutes']:.3f}", f"{row['minutes_error']:+.1f}%"
            wrong += "" if row["rate_of_its_own"] else "*"
        lines.append(
            f"{row['system']:<38}{row['global_batch']:>7,}"
            f"{row['expected_epochs']:>12.1f}{row['published_epochs']:>11.1f}"
            f"{row['epochs_error']:>+7.1f}%"
            f"{expected:>12}{row['published_minutes']:>11.3f}{wrong:>8}".rstrip()
        )
    return "\n".join([*lines, *benchmark.check_notes])
