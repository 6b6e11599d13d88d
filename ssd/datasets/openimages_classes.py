"""Classes of Open Images: their names, their labels (/m/0k4j) and the order in which they are
numbered."""

from __future__ import annotations

import csv
import os
from typing import Dict, Iterator, List, Sequence, Tuple

from ssd.config import nearest
from ssd.errors import UserError

MLPERF_LIST = os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "openimages_mlperf_classes.txt"
)
# Column names of the class descriptions, in the versions of Open Images that have them.
_LABEL_COLUMNS, _NAME_COLUMNS = ("LabelName", "id"), ("DisplayName", "name")


def mlperf_classes() -> Tuple[str, ...]:
    """The 264 names of the MLPerf subset in the order of their bytes: leaf classes with 1,000
    samples or more."""
    return read_class_list(MLPERF_LIST)


def read_class_list(path) -> Tuple[str, ...]:
    """Names from a text file, one per line; position in the file = category id. UserError for an
    empty file, a name that occurs twice, a file that cannot be read."""
    names = []
    for number, cells in csv_rows(path, plain=True):
        name = cells[0].strip()
        if name in names:
            raise UserError(f"{path}:{number}: class {name!r} occurs twice")
        if name:
            names.append(name)
    if not names:
        raise UserError(f"{path}: holds no class")
    return tuple(names)


def csv_rows(path, plain: bool = False) -> Iterator[Tuple[int, List[str]]]:
    """(line number from 1, cells) of a small CSV file, empty lines left out; plain: each line is
    one cell.

    A byte order mark and both kinds of line breaks are accepted. UserError for a file that cannot
    be read, is empty, or is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig", newline=None if plain else "") as file:
            reader = ([line.rstrip("\n")] for line in file) if plain else csv.reader(file)
            number = 0
            for number, cells in enumerate(reader, start=1):
                if any(cells):
                    yield (number if plain else reader.line_num), cells
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file of UTF-8 text: {error}") from None
    if not number:
        raise UserError(f"{path}: the file is empty")


def read_class_labels(path) -> Dict[str, str]:
    """{label: name} from Open Images' class descriptions, with or without a line of column names.

    UserError, naming file, line and value: a line that is not a label with a name, a label with two
    names.
    """
    names: Dict[str, str] = {}
    label_at, name_at, first = 0, 1, True
    for number, cells in csv_rows(path):
        if first and not cells[0].startswith("/"):
            label_at, name_at = (
                _column(path, cells, known) for known in (_LABEL_COLUMNS, _NAME_COLUMNS)
            )
            first = False
            continue
        first = False
        if (
            len(cells) <= max(label_at, name_at)
            or not cells[label_at].startswith("/")
            or not cells[name_at].strip()
        ):
            raise UserError(
                f"{path}:{number}: {','.join(cells)!r} is no label (/m/...) with a name"
            )
        label, name = cells[label_at].strip(), cells[name_at].strip()
        if names.setdefault(label, name) != name:
            raise UserError(f"{path}:{number}: label {label} is both {names[label]!r} and {name!r}")
    if not names:
        raise UserError(f"{path}: holds no class")
    return names


def _column(path, header: List[str], known: Sequence[str]) -> int:
    for name in known:
        if name in header:
            return header.index(name)
    raise UserError(
        f"{path}:1: neither a label (/m/...) nor a line of column names with {' or '.join(known)}: "
        f"{','.join(header)!r}"
    )


def in_order(names: Sequence[str]) -> Tuple[str, ...]:
    """Names, each once, sorted by their bytes, as the benchmark does; the order of a flag does not
    matter."""
    return tuple(sorted(set(names), key=str.encode))


def label_positions(labels: Dict[str, str], classes: Sequence[str], path) -> Dict[str, int]:
    """Each label -> position of its class in `classes`, -1 for other classes. UserError for a class
    without a label."""
    position = {name: index for index, name in enumerate(classes)}
    known = set(labels.values())
    for name in classes:
        if name not in known:
            raise UserError(
                f"class {name}: no label in {path} has this name{nearest(name, sorted(known))}"
            )
    return {label: position.get(name, -1) for label, name in labels.items()}
