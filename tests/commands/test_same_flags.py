"""check-data, evaluate, train, score and predict: the same flags with the same meaning and the same
outcome."""

import json
import re

import pytest
from PIL import Image

from ssd.__main__ import build_parser, command_module, main
from ssd.commandline import Parser, read_settings
from ssd.commands.evaluate import EvaluationImages
from ssd.errors import UserError
from tests.datasets import odd_files

FLAGS = [
    "--data-dir",
    "--val-annotations",
    "--val-images",
    "--cache-dir",
    "--annotations",
    "--images",
    "--skip-bad-annotations",
    "--max-left-out",
    "--decode",
    "--recipe",
]


def flags_of(command):
    """The flags of a command, from its help."""
    parser = Parser(prog=command)
    command_module(command).add_arguments(parser)
    return set(re.findall(r"^ +(?:-h, )?(--[\w-]+)", parser.format_help(), re.M))


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("command", ["check-data", "evaluate"])
def test_the_flag_exists(command, flag):
    assert flag in flags_of(command)


@pytest.mark.parametrize(
    "command, flags",
    [
        ("score", ["--annotations", "--images", "--skip-bad-annotations", "--max-left-out"]),
        ("predict", ["--annotations", "--skip-bad-annotations", "--max-left-out"]),
        ("split-data", ["--skip-bad-annotations", "--max-left-out"]),
        ("train", ["--skip-bad-annotations", "--max-left-out"]),
    ],
)
def test_other_common_flags(command, flags):
    assert not set(flags) - flags_of(command)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--annotations", "FILE"], "--images: --annotations and --images go together"),
        (["--images", "FOLDER"], "--annotations: --annotations and --images go together"),
        (
            ["--annotations", "FILE", "--images", "FOLDER", "--data-dir", "FOLDER"],
            "and so does --data-dir; give one or the other",
        ),
        (
            ["--annotations", "none.json", "--images", "FOLDER"],
            "--annotations none.json: no such file",
        ),
        (
            ["--annotations", "FOLDER", "--images", "FOLDER"],
            "--annotations FOLDER: is a folder, not a file",
        ),
        (["--annotations", "FILE", "--images", "none"], "--images none: no such folder"),
        (["--annotations", "FILE", "--images", "FILE"], "--images FILE: is a file, not a folder"),
        (["--data-dir", "none"], "--data-dir none: no such folder"),
        (["--max-left-out", "2", "--annotations", "FILE", "--images", "FOLDER"], "2"),
        (["--max-left-out", "x", "--annotations", "FILE", "--images", "FOLDER"], "'x'"),
    ],
)
def test_bad_values_are_refused_alike(tmp_path, capsys, flags, words):
    """With the same line."""
    (tmp_path / "images").mkdir()
    (tmp_path / "a.json").write_text(json.dumps(odd_files.content()))
    (tmp_path / "w.params").write_bytes(b"")
    named = {"FILE": str(tmp_path / "a.json"), "FOLDER": str(tmp_path / "images")}
    said = []
    for command, more in (
        ("check-data", []),
        ("evaluate", ["--weights", str(tmp_path / "w.params")]),
    ):
        args = build_parser([command]).parse_args(
            [command, *more, *[named.get(flag, flag) for flag in flags]]
        )
        try:
            config = read_settings(args)
            if command == "evaluate":
                from ssd.commands.evaluate import _data_set

                _data_set(args, config)
            else:
                args.run(args)
        except UserError as error:
            said.append(str(error))
        assert len(said) and "\n" not in said[-1]
    for key, value in named.items():
        words = words.replace(key, value)
    assert words in said[0] and said[0] == said[1]


def missing(folder, content):
    (folder / "2.jpg").unlink()


def cut(folder, content):
    (folder / "2.jpg").write_bytes((folder / "2.jpg").read_bytes()[:-40])


def all_missing(folder, content):
    for number in range(1, 7):
        (folder / f"{number}.jpg").unlink()


def four_missing(folder, content):
    for number in range(1, 5):
        (folder / f"{number}.jpg").unlink()


def turned(folder, content):
    Image.new("RGB", (40, 60)).save(str(folder / "2.jpg"))


def bad_box(folder, content):
    content["annotations"][1]["bbox"] = [1, 2, -3, 4]


def far_corners(folder, content):
    for row in content["annotations"]:
        row["bbox"] = [20, 15, 55, 38]


def backslashes(folder, content):
    for row in content["images"]:
        row["file_name"] = ".\\" + row["file_name"]


def one_name_twice(folder, content):
    content["categories"][1]["name"] = "disc"


def no_objects(folder, content):
    content["annotations"] = []


def seven_bad(folder, content):
    for row in content["annotations"][:7]:
        row["area"] = "much"


def nothing(folder, content):
    pass


# Status of check-data; whether evaluate goes on, and with how many images; each without and with
# the flag.
STATES = [
    (nothing, (0, 6), (0, 6)),
    (missing, (1, 5), (0, 5)),
    (cut, (1, 5), (0, 5)),
    (turned, (1, 5), (0, 5)),
    (all_missing, (1, None), (1, None)),
    (four_missing, (1, 2), (1, None)),
    (bad_box, (1, None), (0, 6)),
    (far_corners, (1, None), (1, None)),
    (backslashes, (1, None), (1, None)),
    (one_name_twice, (0, 6), (0, 6)),
    (no_objects, (0, 6), (0, 6)),
    (seven_bad, (1, None), (1, None)),
]


@pytest.mark.parametrize(
    "change, plain, skipping", STATES, ids=lambda value: getattr(value, "__name__", "")
)
def test_check_data_and_evaluate_agree(tmp_path, capsys, change, plain, skipping):
    folder, file, content = tmp_path / "images", tmp_path / "a.json", odd_files.content()
    odd_files.draw_images(folder)
    change(folder, content)
    file.write_text(json.dumps(content))
    for flags, (status, images) in (([], plain), (["--skip-bad-annotations"], skipping)):
        flags = [
            "--annotations",
            str(file),
            "--images",
            str(folder),
            "--cache-dir",
            str(tmp_path / "cache"),
            *flags,
        ]
        assert main(["check-data", *flags, "--jobs", "1"]) == status
        args = build_parser(["evaluate"]).parse_args(["evaluate", "--weights", "none", *flags])
        try:
            loaded = EvaluationImages(read_settings(args), str(file), str(folder), None)
            assert loaded.count == images and len(loaded.left_out) == 6 - images
            assert status == int(bool(loaded.left_out) and "--skip-bad-annotations" not in flags)
        except UserError as error:
            assert images is None and status == 1, error
