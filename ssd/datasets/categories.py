"""Matching the categories of two annotation files by name, and names that two categories share."""

from __future__ import annotations

import dataclasses
import unicodedata

import numpy as np

from ssd.config import nearest
from ssd.datasets.annotation_file import show
from ssd.errors import UserError


def same_names(ids: tuple, names: tuple, boxes) -> str:
    """One line about categories that share a name, "" if there are none. boxes: (k,) per
    category."""
    first = (
        next((name for name in names if names.count(name) > 1), None)
        if len(set(names)) < len(names)
        else None
    )
    if first is None:
        return ""
    found = [index for index, name in enumerate(names) if name == first]
    counts = " and ".join(f"{ids[index]} ({boxes[index]} boxes)" for index in found[:3])
    empty = [ids[index] for index in found if not boxes[index]]
    cause = (
        f"; {empty[0]} seems to be left over from an export, and can be removed"
        if empty and len(empty) < len(found)
        else "; if they are one class, their annotations need one category_id"
    )
    return f"categories {counts} have one name, {show(first)}, and are classes of their own{cause}"


def like(name: str, names) -> str:
    """'; did you mean ...' for the one of `names` that `name` may stand for, "" if none is
    similar."""
    for other in names:
        for difference, plain in _SPELLINGS:
            if plain(name) == plain(other):
                return (
                    f"; did you mean {other}? They differ in {difference} alone ({name!a}, "
                    f"{other!a})"
                )
    return nearest(name, names, 0.75)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


# What can differ between two spellings of a name, and what makes them equal.
_SPELLINGS = (
    ("how accents are coded (NFC and NFD of Unicode)", _composed),
    ("blanks", lambda name: "".join(name.split())),
    ("capital letters", str.casefold),
    ("blanks, capital letters and codes", lambda name: "".join(_composed(name).casefold().split())),
)


def align_categories(dataset, model) -> tuple:
    """(`dataset` with its classes in the order of `model`'s, one line about it or ""): two
    CocoDatasets, by name.

    The ids stay those of `dataset`'s file. A category that is missing from `dataset` gets an id
    that is free there, and has no object. UserError, naming the first difference, if a name is only
    in `dataset` or belongs to two categories.
    """
    names, wanted, own = dataset.category_names, model.category_names, dataset.category_ids
    if (names, own) == (wanted, model.category_ids):
        return dataset, ""
    foreign = next((index for index, name in enumerate(names) if name not in wanted), None)
    double = next(
        (name for name in wanted + names if wanted.count(name) > 1 or names.count(name) > 1), None
    )
    if foreign is not None:
        raise UserError(
            f"{dataset.path}: its categories are not those of {model.path}: {own[foreign]} "
            f"{names[foreign]!r} is not among them{like(names[foreign], wanted)}"
        )
    if double is not None:
        index = next(
            (
                index
                for index, pair in enumerate(zip(own, names))
                if index >= len(wanted) or pair != (model.category_ids[index], wanted[index])
            ),
            len(own),
        )
        ours = f"{own[index]} {names[index]!r}" if index < len(own) else "nothing"
        theirs = (
            f"{model.category_ids[index]} {wanted[index]!r}" if index < len(wanted) else "nothing"
        )
        raise UserError(
            f"{dataset.path}: its categories are not those of {model.path}: number {index + 1} is "
            f"{ours}, not {theirs}; they cannot be mapped by name, as two are named {double!r}"
        )
    missing = [name for name in wanted if name not in names]
    taken, ids = set(own), dict(zip(names, own))
    for name, number in zip(wanted, model.category_ids):
        if name not in ids:
            ids[name] = number if number not in taken else max(taken) + 1
            taken.add(ids[name])
    classes = np.array([0] + [1 + wanted.index(name) for name in names], np.int64)
    aligned = dataclasses.replace(
        dataset,
        category_ids=tuple(ids[name] for name in wanted),
        category_names=wanted,
        box_classes=classes[dataset.box_classes],
    )
    how = (
        "have other ids"
        if any(
            ids[name] != number for name, number in zip(wanted, model.category_ids) if name in names
        )
        else "are in another order"
        if not missing
        else "are fewer"
    )
    absent = (
        f"; it has no object of {', '.join(map(repr, missing[:3]))}"
        f"{', ...' if len(missing) > 3 else ''}"
        if missing
        else ""
    )
    return (
        aligned,
        f"{dataset.path}: its categories {how} than in {model.path}; they are mapped by "
        f"name{absent}",
    )
