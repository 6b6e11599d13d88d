"""`python -m ssd COMMAND`: the commands and their flags. MXNet is imported when a command needs it."""
from __future__ import annotations

import sys

from ssd.commandline import Parser, add_settings, read_settings, run
from ssd.config import nearest
from ssd.threads import use_all_cores

COMMANDS = ("train", "evaluate", "predict", "export", "report", "score", "check-data", "plan", "summary", "show-data",
            "split-data", "make-shapes", "benchmark")
# Those that compute with the network.
NETWORK = ("train", "evaluate", "predict", "export", "show-data", "benchmark")
DESCRIPTION = """Trains, evaluates and scores single-shot detectors: an MLPerf benchmark on MXNet, DALI and Horovod."""


def _train(args) -> int:
    from ssd.training.command import train
    from ssd.training.ranks import rank_from_environment
    return train(read_settings(args, report=(lambda line: None) if rank_from_environment() else None))


def _evaluate(args) -> int:
    from ssd.evaluation.evaluate_command import run as evaluate
    return evaluate(args)


def _predict(args) -> int:
    from ssd.tools.predict_command import run as predict
    return predict(args)


def _export(args) -> int:
    from ssd.tools.export_command import run as export
    return export(args)


def _report(args) -> int:
    from ssd.report.command import run as report
    return report(args)


def _score(args) -> int:
    from ssd.evaluation.score_command import run as score
    return score(args)


def _check_data(args) -> int:
    from ssd.data.check_command import run as check_data
    return check_data(args)


def _plan(args) -> int:
    from ssd.training.plan_command import run as plan
    return plan(args)


def _summary(args) -> int:
    from ssd.tools.summary_command import run as summary
    return summary(args)


def _show_data(args) -> int:
    from ssd.tools.show_data_command import run as show_data
    return show_data(args)


def _split_data(args) -> int:
    from ssd.data.split_command import run as split_data
    return split_data(args)


def _make_shapes(args) -> int:
    from ssd.data.shapes_command import run as make_shapes
    return make_shapes(args)


def _benchmark(args) -> int:
    from ssd.benchmark.command import run as benchmark
    return benchmark(args)


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
        from ssd.evaluation.evaluate_command import add_arguments
        add_arguments(sub)
    command("evaluate", "detect with saved weights on a data set: COCO's twelve numbers, AP per class, a report",
            _evaluate, evaluate_flags,
            usage="%(prog)s --weights PATH [PATH ...]\n"
                  "           (--data-dir DIR | --annotations FILE --images FOLDER) [flags]")

    def predict_flags(sub):
        from ssd.tools.predict_command import add_arguments
        add_arguments(sub)
    command("predict", "detect objects in pictures and videos: drawn, and as COCO's JSON", _predict, predict_flags,
            usage="%(prog)s INPUT [INPUT ...] --weights PATH [flags]")

    def export_flags(sub):
        from ssd.tools.export_command import add_arguments
        add_arguments(sub)
    command("export", "write trained weights as ONNX and Gluon symbol, checked against the live network", _export,
            export_flags, usage="%(prog)s --weights PATH --output FOLDER [flags]")

    def report_flags(sub):
        from ssd.report.command import add_arguments
        add_arguments(sub)
    command("report", "make the report of a run (report.html) again", _report, report_flags)

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

    def summary_flags(sub):
        from ssd.tools.summary_command import add_arguments
        add_arguments(sub)
    command("summary", "a network's layers, cost and default boxes, and how these cover a data set", _summary,
            summary_flags, usage="%(prog)s [--recipe NAME|FILE] [--annotations FILE] [flags]")

    def show_flags(sub):
        from ssd.tools.show_data_command import add_arguments
        add_arguments(sub)
    command("show-data", "draw augmented training images, and the default boxes matched to their objects", _show_data,
            show_flags, usage="%(prog)s --data-dir DIR --output FOLDER [flags]")

    def split_flags(sub):
        from ssd.data.split_command import add_arguments
        add_arguments(sub)
    command("split-data", "split an annotation file into training and validation", _split_data, split_flags)

    def shapes_flags(sub):
        from ssd.data.shapes_command import add_arguments
        add_arguments(sub)
    command("make-shapes", "draw a small COCO-format data set of shapes, to try everything on", _make_shapes,
            shapes_flags)

    def benchmark_flags(sub):
        from ssd.benchmark.command import add_arguments
        add_arguments(sub)
    command("benchmark", "how fast training, inference, data, scoring and allreduce are here, and could be", _benchmark,
            benchmark_flags, usage="%(prog)s MODE [--data-dir DIR] [--recipe NAME] [flags]")
    return parser


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in NETWORK:
        use_all_cores()    # here, as NumPy reads it too; the rest is ssd.runtime.start's
    parser = build_parser(commands=argv[:1])
    if not argv:
        parser.print_help()
        return 2
    if not argv[0].startswith("-") and argv[0] not in COMMANDS:
        parser.error(f"unknown command {argv[0]!r}{nearest(argv[0], COMMANDS)}")
    return run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
