"""Categories of two annotation files brought together by their names, and names that stand for
two."""

from __future__ import annotations

import dataclasses
import unicodedata

import numpy as np

from ssd.config import nearest
from ssd.datasets.annotation_file import show
from ssd.errors import UserError


def same_names(ids: tuple, names: tuple, boxes) -> str:
    """One line on categories of one name, "" where there are none. boxes: (k,) of each category."""
    first = (
        next((name for name in names if names.count(name) > 1), None)
        if len(set(names)) < len(names)
        else None
    )
    if first is None:
        return ""
    found = [place for place, name in enumerate(names) if name == first]
    counts = " and ".join(f"{ids[place]} ({boxes[place]} boxes)" for place in found[:3])
    empty = [ids[place] for place in found if not boxes[place]]
    cause = (
        f"; {empty[0]} seems to be left over from an export, and can be removed"
        if empty and len(empty) < len(found)
        else "; if they are one class, their annotations need one category_id"
    )
    return f"categories {counts} have one name, {show(first)}, and are classes of their own{cause}"


def like(name: str, names) -> str:
    """'; WORDS' on the one of `names` that `name` may be meant for, "" where none is like it."""
    for other in names:
        for words, plain in _WAYS:
            if plain(name) == plain(other):
                return f"; did you mean {other}? They differ in {words} alone ({name!a}, {other!a})"
    return nearest(name, names, 0.75)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


_WAYS = (
    ("how accents are coded (NFC and NFD of Unicode)", _composed),
    ("blanks", lambda name: "".join(name.split())),
    ("capital letters", str.casefold),
    ("blanks, capital letters and codes", lambda name: "".join(_composed(name).casefold().split())),
)


def align_categories(dataset, model) -> tuple:
    """(`dataset` with its classes in the order of `model`'s, one line about it or ""): two
    CocoDatasets, by name.

    The ids stay those of the own file. A category that `dataset` lacks gets an id that is free in
    it, and has no object there. UserError, naming the first difference, where a name is only in
    `dataset` or stands for two categories.
    """
    names, wanted, own = dataset.category_names, model.category_names, dataset.category_ids
    if (names, own) == (wanted, model.category_ids):
        return dataset, ""
    foreign = next((place for place, name in enumerate(names) if name not in wanted), None)
    double = next(
        (name for name in wanted + names if wanted.count(name) > 1 or names.count(name) > 1), None
    )
    if foreign is not None:
        raise UserError(
            f"{dataset.path}: its categories are not those of {model.path}: {own[foreign]} "
            f"{names[foreign]!r} is not among them{like(names[foreign], wanted)}"
        )
    if double is not None:
        place = next(
            (
                place
                for place, pair in enumerate(zip(own, names))
                if place >= len(wanted) or pair != (model.category_ids[place], wanted[place])
            ),
            len(own),
        )
        there = f"{own[place]} {names[place]!r}" if place < len(own) else "nothing"
        other = (
            f"{model.category_ids[place]} {wanted[place]!r}" if place < len(wanted) else "nothing"
        )
        raise UserError(
            f"{dataset.path}: its categories are not those of {model.path}: number {place + 1} is "
            f"{there}, and {other} there; they cannot be mapped by name, as two are named "
            f"{double!r}"
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
        else "stand in another order"
        if not missing
        else "are fewer"
    )
    lacking = (
        f"; {', '.join(map(repr, missing[:3]))}{', ...' if len(missing) > 3 else ''} has no object "
        "there"
        if missing
        else ""
    )
    return (
        aligned,
        f"{dataset.path}: its categories {how} than in {model.path}; they are mapped by "
        f"name{lacking}",
    )
