"""`python -m ssd COMMAND`: the commands and their flags. MXNet is imported when a command needs it."""
from __future__ import annotations

import sys

from ssd.commandline import Parser, add_settings, read_settings, run
from ssd.config import nearest
from ssd.threads import use_all_cores

COMMANDS = ("train", "evaluate", "score", "check-data", "plan", "make-shapes")
DESCRIPTION = """Trains, evaluates and scores single-shot detectors: an MLPerf benchmark on MXNet, DALI and Horovod."""


def _train(args) -> int:
    use_all_cores()
    from ssd.training.command import train
    return train(read_settings(args))


def _evaluate(args) -> int:
    use_all_cores()
    from ssd.evaluation.evaluate_command import run as evaluate
    return evaluate(args)


def _score(args) -> int:
    from ssd.evaluation.score_command import run as score
    return score(args)


def _check_data(args) -> int:
    from ssd.data.check_command import run as check_data
    return check_data(args)


def _plan(args) -> int:
    from ssd.training.plan_command import run as plan
    return plan(args)


def _make_shapes(args) -> int:
    from ssd.data.shapes_command import run as make_shapes
    return make_shapes(args)


def build_parser(commands=None) -> Parser:
    """The parser; only the flags of the named commands are built, since help texts read the recipe."""
    parser = Parser(prog="python -m ssd", description=DESCRIPTION)
    parser.set_defaults(run=None)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    def command(name, help, run, add, usage=None):
        sub = subparsers.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", usage=usage)
        sub.set_defaults(run=run)
        if commands is None or name in commands:
            add(sub)
            sub.set_defaults(known_flags=list(sub._option_string_actions))

    command("train", "train a detector until its target mAP, with an MLPerf log", _train,
            lambda sub: add_settings(sub, ("run", "recovery", "data", "training", "evaluation", "augmentation",
                                           "model", "default_boxes", "loss", "detection")),
            usage="%(prog)s --data-dir DIR [--recipe NAME|FILE] [flags]")

    def evaluate_flags(sub):
        sub.add_argument("--save-detections", metavar="PATH", default="",
                         help="write the detections as COCO results [.json file]")
        sub.add_argument("--json", action="store_true", help="print the numbers as one JSON object")
        add_settings(sub, ("run", "data", "evaluation", "model", "detection"))
    command("evaluate", "detect with saved weights on a validation set and print COCO's twelve numbers", _evaluate,
            evaluate_flags, usage="%(prog)s --weights FILE --data-dir DIR [flags]")

    def score_flags(sub):
        from ssd.evaluation.score_command import add_arguments
        add_arguments(sub)
    command("score", "score a file of detections against COCO annotations", _score, score_flags)

    def check_flags(sub):
        from ssd.data.check_command import add_arguments
        add_arguments(sub)
    command("check-data", "check a data set: every image decoded once, every annotation", _check_data, check_flags)

    def plan_flags(sub):
        from ssd.training.plan_command import add_arguments
        add_arguments(sub)
    command("plan", "what a run on so many nodes and GPUs will do", _plan, plan_flags,
            usage="%(prog)s --nodes N --gpus G [flags]")

    def shapes_flags(sub):
        from ssd.data.shapes_command import add_arguments
        add_arguments(sub)
    command("make-shapes", "draw a small COCO-format data set of shapes, to try everything on", _make_shapes,
            shapes_flags)
    return parser


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser(commands=argv[:1])
    if not argv:
        parser.print_help()
        return 2
    if not argv[0].startswith("-") and argv[0] not in COMMANDS:
        parser.error(f"unknown command {argv[0]!r}{nearest(argv[0], COMMANDS)}")
    return run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
