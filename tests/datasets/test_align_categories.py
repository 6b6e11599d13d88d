"""Categories of two files matched by their names."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd.datasets.categories import align_categories
from ssd.datasets.coco import CocoDataset
from ssd.errors import UserError

MODEL = ("disc", "star", "bar")


def dataset(names, ids, path="val.json"):
    """One box of each category, and one more of the first."""
    classes = np.array([*range(1, len(names) + 1), 1])
    return CocoDataset(
        path,
        "images",
        np.arange(len(classes)),
        tuple(map(str, classes)),
        np.full((len(classes), 2), 9),
        tuple(ids),
        tuple(names),
        np.zeros((len(classes), 4)),
        classes,
        np.zeros(len(classes), bool),
        np.arange(len(classes)),
    )


def names_of_boxes(data):
    return [data.category_names[label - 1] for label in data.box_classes]


def ids_of_boxes(data):
    return [data.category_ids[label - 1] for label in data.box_classes]


def check(data, model):
    """Aligned, every box keeps its name and its own id, and the classes are the model's."""
    aligned, line = align_categories(data, model)
    assert aligned.category_names == model.category_names
    assert len(set(aligned.category_ids)) == len(aligned.category_ids) == len(model.category_ids)
    assert names_of_boxes(aligned) == names_of_boxes(data) and ids_of_boxes(
        aligned
    ) == ids_of_boxes(data)
    assert (line == "") == (
        (data.category_names, data.category_ids) == (model.category_names, model.category_ids)
    )
    return line


@pytest.mark.parametrize(
    "names, ids, words",
    [
        (MODEL, (1, 2, 3), ""),
        (("bar", "star", "disc"), (3, 2, 1), "are in another order"),
        (("star", "disc", "bar"), (2, 1, 3), "are in another order"),
        (MODEL, (7, 8, 9), "have other ids"),
        (MODEL, (3, 1, 2), "have other ids"),
        (("bar", "disc", "star"), (0, 5, 6), "have other ids"),
        (
            ("disc", "star"),
            (1, 2),
            "are fewer than in train.json; they are mapped by name; it has no object of 'bar'",
        ),
        (("bar",), (3,), "it has no object of 'disc', 'star'"),
        (("bar",), (1,), "have other ids"),
        (("star", "bar"), (9, 3), "have other ids"),
        (MODEL, (2**62, -4, 0), "have other ids"),
    ],
)
def test_mapped_by_name(names, ids, words):
    assert words in check(dataset(names, ids), dataset(MODEL, (1, 2, 3), "train.json"))


@pytest.mark.parametrize(
    "names, ids, model, words",
    [
        (
            ("disc", "Star", "bar"),
            (1, 2, 3),
            MODEL,
            "2 'Star' is not among them; did you mean star?",
        ),
        ((*MODEL, "ring"), (1, 2, 3, 4), MODEL, "4 'ring' is not among them"),
        (("ring", "bar"), (5, 3), MODEL, "5 'ring' is not among them"),
        (("1", "2", "3"), (1, 2, 3), MODEL, "1 '1' is not among them"),
        (("disc", "disc", "bar"), (1, 2, 3), MODEL, "number 2 is 2 'disc', not 2 'star'"),
        (
            ("disc", "star", "disc"),
            (1, 2, 3),
            ("disc", "disc", "star"),
            "number 2 is 2 'star', not 2 'disc'",
        ),
        (
            ("disc", "disc"),
            (1, 2),
            ("disc", "disc", "disc"),
            "number 3 is nothing, not 3 'disc'",
        ),
        (
            ("disc", "disc", "star"),
            (1, 3, 2),
            ("disc", "disc", "star"),
            "number 2 is 3 'disc', not 2 'disc'",
        ),
        (("star", "disc", "bar"), (2, 1, 3), ("disc", "star", "bar", "bar"), "two are named 'bar'"),
        (
            ("disc ", "star", "bar"),
            (1, 2, 3),
            MODEL,
            "1 'disc ' is not among them; did you mean disc?",
        ),
    ],
)
def test_the_first_difference_is_named(names, ids, model, words):
    with pytest.raises(UserError) as error:
        align_categories(
            dataset(names, ids), dataset(model, range(1, len(model) + 1), "train.json")
        )
    assert str(error.value).startswith("val.json: its categories are not those of train.json: ")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_equal_lists_may_have_a_name_twice():
    assert check(dataset(("disc", "disc"), (1, 2)), dataset(("disc", "disc"), (1, 2))) == ""


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_any_order_and_any_ids(data):
    names = data.draw(st.lists(st.text(max_size=4), min_size=1, max_size=8, unique=True))
    numbers = st.integers(-9, 9)
    lists = st.lists(numbers, min_size=len(names), max_size=len(names), unique=True)
    some = data.draw(st.permutations(names))[: data.draw(st.integers(1, len(names)))]
    check(
        dataset(some, data.draw(lists)[: len(some)]), dataset(names, data.draw(lists), "train.json")
    )
