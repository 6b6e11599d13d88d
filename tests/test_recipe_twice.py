"""A key that is in a recipe twice: YAML's readers take the last one without a word, this program
refuses it."""

import pytest

from ssd.config import load_recipe
from ssd.errors import UserError
from ssd.recipe_file import read_sections

TWICE = [
    ("training: {epochs: 3}\ntraining: {batch_size: 2}\n", "training", 1, 2),
    ("training:\n  epochs: 3\n  batch_size: 2\n  epochs: 4\n", "training.epochs", 2, 4),
    ("training: {epochs: 3, batch_size: 2, epochs: 3}\n", "training.epochs", 1, 1),
    ("extends: a\nrun: {}\nextends: b\n", "extends", 1, 3),
    ("a:\n  b:\n    c:\n      d: 1\n      e: 2\n      d: 3\n", "a.b.c.d", 4, 6),
    ("a:\n  - x: 1\n  - x: 1\n    y: 2\n    x: 3\n", "a.x", 3, 5),
    ("a:\n  - - {x: 1}\n    - {x: 1, x: 2}\n", "a.x", 3, 3),
    ("training:\n  epochs: 3\n'training':\n  epochs: 3\n", "training", 1, 3),
    ('"training": {}\n# a word\n\ntraining: {}\n', "training", 1, 4),
    ("1: a\n2: b\n1: c\n", "1", 1, 3),
    ("true: a\ntrue: b\n", "true", 1, 2),
    ("? training\n: {}\n? training\n: {}\n", "training", 1, 3),
    ("\ufefftraining: {}\r\ntraining: {}\r\n", "training", 1, 2),
    ("a: &base {x: 1, x: 2}\nb: *base\n", "a.x", 1, 1),
    ("größe: 1\ngröße: 2\n", "größe", 1, 2),
]


@pytest.mark.parametrize("text, name, first, second", TWICE)
def test_named_with_both_lines(tmp_path, text, name, first, second):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode())
    with pytest.raises(UserError) as error:
        read_sections(str(path))
    assert str(error.value) == f"recipe {path}: {name} occurs twice, in lines {first} and {second}"


@pytest.mark.parametrize(
    "text, content",
    [
        ("a: {x: 1}\nb: {x: 1}\n", {"a": {"x": 1}, "b": {"x": 1}}),
        ("a: [{x: 1}, {x: 2}]\n", {"a": [{"x": 1}, {"x": 2}]}),
        (
            "a: &base {x: 1, y: 2}\nb: {<<: *base, x: 3}\n",
            {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}},
        ),
        ("a: {Epochs: 1, epochs: 2}\n", {"a": {"Epochs": 1, "epochs": 2}}),
    ],
)
def test_what_is_no_key_twice(tmp_path, text, content):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert read_sections(str(path)) == content


def test_aliases_of_aliases_take_no_time(tmp_path):
    """9 ** 12 values, if each were looked at by its own."""
    lines = ["a0: &a0 [1]"] + [
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 13)
    ]
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join(lines))
    assert len(read_sections(str(path))) == 13


def test_a_base_of_a_recipe_too(tmp_path):
    (tmp_path / "base.yaml").write_text("extends: ssd-resnet34-shapes\nrun: {}\nrun: {}\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\n")
    with pytest.raises(UserError, match="base.yaml: run occurs twice, in lines 2 and 3"):
        load_recipe(str(tmp_path / "mine.yaml"))
