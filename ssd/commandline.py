"""Flags for the settings of ssd.config, and one-line error messages."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from typing import Any, Dict, Iterable, Optional

from ssd import config as settings
from ssd import ends
from ssd.errors import UserError, log_line, on_a_line
from ssd.flag_types import share

DEFAULT_RECIPE = "ssd-resnet34-coco"


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(
        prog, max_help_position=34, width=min(110, shutil.get_terminal_size().columns)
    )


class Parser(argparse.ArgumentParser):
    """No abbreviated flags; an error is one line, which suggests the nearest flag for an unknown
    one."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", _formatter)
        super().__init__(*args, **kwargs)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")

    def parse_args(self, args=None, namespace=None):
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            flags = getattr(parsed, "known_flags", None) or list(self._option_string_actions)
            name = rest[0].split("=")[0]
            self.error(
                f"unknown {'flag' if name.startswith('-') else 'argument'} {name}"
                + settings.nearest(name, flags)
            )
        return parsed


class _OnOff(argparse.Action):
    """--flag and --no-flag (argparse has this since Python 3.9)."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, not option_string.startswith("--no-"))


def _shown(value: Any) -> str:
    if isinstance(value, settings.ImageSize):
        return str(value)
    if isinstance(value, tuple):
        return " ".join(map(_shown, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def format_bytes(number: float) -> str:
    """A number of bytes in a suitable unit."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            break
        number /= 1000
    else:
        unit = "GB"
    return f"{number:.3g} {unit}" if number < 1000 else f"{number:,.0f} {unit}"


def add_settings(
    parser: argparse.ArgumentParser,
    sections: Iterable[str],
    leave_out: Iterable[str] = (),
    default_recipe: str = DEFAULT_RECIPE,
) -> None:
    """Add --recipe and one flag per setting of the sections, except those in `leave_out`; a flag
    that is not given sets no attribute. default_recipe: the default of --recipe, for its help."""
    base = settings.load_recipe(DEFAULT_RECIPE)
    parser.add_argument(
        "--recipe",
        default=None,
        metavar="NAME|FILE",
        help=f"settings to start from: {', '.join(settings.builtin_recipes())}, or a YAML file "
        f"[default: {default_recipe}]",
    )
    for section in sections:
        kind = settings.SECTIONS[section]
        group = parser.add_argument_group(f"{section} (defaults: {DEFAULT_RECIPE}'s)")
        for field in dataclasses.fields(kind):
            if not field.metadata["flag"] or field.name in leave_out:
                continue
            flag, default = (
                "--" + field.name.replace("_", "-"),
                getattr(getattr(base, section), field.name),
            )
            text = field.metadata["help"].replace("%", "%%")
            if default is None:  # a setting of another kind than the default recipe's
                chooser, kinds = field.metadata["only"]
                text += f" (with {chooser} {' or '.join(kinds)})"
            elif "default:" not in text and default != "":
                text += f" [default: {_shown(default)}]"
            options: Dict[str, Any] = dict(
                dest=f"{section}.{field.name}", default=argparse.SUPPRESS
            )
            if isinstance(default, bool):
                group.add_argument(
                    flag, "--no-" + flag[2:], action=_OnOff, nargs=0, help=text, **options
                )
            else:
                example = (
                    settings.example(f"{section}.{field.name}") if default is None else default
                )
                several = isinstance(example, tuple) and not isinstance(example, settings.ImageSize)
                group.add_argument(
                    flag,
                    help=text,
                    nargs="*" if several else None,
                    metavar=_metavar(field, example),
                    **options,
                )


def add_max_left_out(
    parser: argparse.ArgumentParser, what: str = "with --skip-bad-annotations: "
) -> None:
    """Add --max-left-out to a command without the flags of the section `data`. what: the start of
    its help."""
    parser.add_argument(
        "--max-left-out",
        type=share,
        default=0.5,
        metavar="X",
        help=what
        + "the largest share of images or boxes that may be left out [0..1; default: 0.5]; "
        "1: no limit, whatever the likely cause",
    )


def _metavar(field, default) -> str:
    if isinstance(default, settings.ImageSize):
        return "N|HxW"
    if field.metadata["choices"]:
        return "{" + ",".join(field.metadata["choices"]) + "}"
    paths = ("dir", "images", "annotations", "backbone", "weights", "output", "resume")
    return {int: "N", float: "X", tuple: "N"}.get(
        type(default), "PATH" if field.name.endswith(paths) else "TEXT"
    )


def read_settings(
    args: argparse.Namespace,
    recipe: Optional[str] = None,
    base: settings.Config = None,
    report=None,
) -> settings.Config:
    """The recipe (or `base` instead) with the flags of `args` applied; UserError names the flag.
    report: receives load_recipe's lines, instead of standard error."""
    config = base or settings.load_recipe(
        args.recipe or recipe or DEFAULT_RECIPE, report or log_line
    )
    values = {name: value for name, value in vars(args).items() if "." in name}
    for name, value in values.items():
        flag = "--" + name.split(".")[1].replace("_", "-")
        values[name] = settings.checked(name, value, flag)
    config = settings.apply_values(config, values, "flags")
    from ssd.model.boxes.box_rules import sizes_of  # imports NumPy; `start` sets its threads first

    sizes_of(config)  # refuses sizes that do not fit the image, before any long work
    return config


def run(parser: argparse.ArgumentParser, argv=None) -> int:
    """Parse arguments and run the command; a user error becomes one line and status 2."""
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except BrokenPipeError:
        return ends.BROKEN_PIPE
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or ends.is_interrupted():
            status, line = ends.INTERRUPTED, "interrupted"
        elif isinstance(error, UserError):
            status, line = 2, "error: " + on_a_line(" ".join(str(error).split()))
        elif isinstance(error, FloatingPointError):
            status, line = 3, f"stopped: {error}"
        elif (
            isinstance(error, UnicodeEncodeError)
            and error.encoding.lower().replace("-", "") != "utf8"
        ):
            status, line = (
                2,
                (
                    f"error: the encoding of this locale, {error.encoding}, cannot name the file "
                    f"{error.object!a}; set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
                ),
            )
        else:
            raise
    print(f"{parser.prog} {args.command}: {line}", file=sys.stderr, flush=True)
    return status
