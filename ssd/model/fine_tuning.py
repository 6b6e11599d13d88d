"""Weights of another network of the same family as a start: other classes, another image size.

A fused head's channels are offsets, then logits, class by class (see ssd.model.heads.fused): the
offsets do not depend on the classes and are kept; the logits of a class are kept where the weights
have a class of that name. Of a shared head (ssd.model.heads.shared) all is kept but the last
convolution for the classes, whose logits are treated the same way.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Sequence, Tuple

import mxnet as mx
import numpy as np

from ssd.errors import UserError
from ssd.model.boxes.box_rules import sizes_of
from ssd.model.heads.shared import SharedHead
from ssd.model.network import Network
from ssd.model.parameters import by_structural_name
from ssd.model.weights import read_info, read_tensors

HEAD = "predictors."
EXTRA = "expand_"


class SharedClasses(NamedTuple):
    """Default boxes per cell and classes (background included, which has no logit) of a shared
    head."""

    boxes: int
    classes: int
    name: str = "predictors.classification.out"

    @property
    def others(self) -> int:
        """Channels before those of the logits."""
        return 0

    def logits(self, label: int) -> List[int]:
        """The channels that hold the logits of class `label`, one per default box."""
        return [(self.classes - 1) * box + label - 1 for box in range(self.boxes)] if label else []


class Head(NamedTuple):
    """Default boxes per cell and classes (background included) of a fused head."""

    boxes: int
    classes: int
    name: str = ""

    @property
    def others(self) -> int:
        """Channels before those of the logits: the offsets'."""
        return 4 * self.boxes

    def logits(self, label: int) -> List[int]:
        """The channels that hold the logits of class `label`, one per default box."""
        return [4 * self.boxes + self.classes * box + label for box in range(self.boxes)]


def load_matching(network: Network, path: str, names: Sequence[str]) -> str:
    """Sets what fits of an initialised network from a .params file or a checkpoint's
    parameters.npz; the rest stays unchanged. Returns one line about what was taken and what not.

    names: of the network's classes 1 to num_classes - 1. UserError if the file is of another
    architecture (backbone, width, layout), naming the tensor; nothing is changed then.
    """
    values, kept, unused = _plan(network, path, names)
    parameters = by_structural_name(network)
    for name, value in values.items():
        parameters[name].set_data(mx.nd.array(value, dtype=parameters[name].dtype))
    return _summary(parameters, values, kept, names) + (
        f"; not used: {_some(unused)}" if unused else ""
    )


def fits(network: Network, path: str, names: Sequence[str]) -> bool:
    """Whether `load_matching` would take the file."""
    try:
        _plan(network, path, names)
    except UserError:
        return False
    return True


def _plan(
    network: Network, path: str, names: Sequence[str]
) -> Tuple[Dict[str, np.ndarray], Dict[int, int], List[str]]:
    """New values by tensor name, the classes that are kept (class of the network -> class of the
    file), and the file's tensors that are not used."""
    tensors = {name: tensor.asnumpy() for name, tensor in read_tensors(path).items()}
    parameters = by_structural_name(network)
    values = {}
    info = read_info(path)
    heads = _heads_of(network)
    own = tuple(f"{head.name}." for head in heads)
    for name, parameter in parameters.items():
        if name.startswith(own) or (name.startswith(EXTRA) and name not in tensors):
            continue
        if name not in tensors:
            raise UserError(f"weights {path}: another network's: missing {name}")
        if tensors[name].shape != parameter.shape:
            raise UserError(
                f"weights {path}: another architecture's: {name} has shape {tensors[name].shape}, "
                f"not {parameter.shape}"
            )
        values[name] = tensors[name]
    for name, value in tensors.items():
        if name not in parameters and not name.startswith((HEAD, EXTRA)):
            raise UserError(f"weights {path}: another network's: unexpected {name}")
        if not np.isfinite(value).all():
            raise UserError(f"weights {path}: {name} is not finite")

    old_heads = _described_heads(info, heads) if info else _guessed_heads(tensors, heads, path)
    if info:
        kept = _classes_in_common(info.category_names, names)
    else:
        same = old_heads[0].classes == heads[0].classes
        kept = {label: label for label in range(heads[0].classes if same else 1)}
    for new, old in zip(heads, old_heads):
        for name in (f"{new.name}.{kind}" for kind in ("weight", "bias")):
            tensor, start = tensors.get(name), parameters[name].data().asnumpy()
            if (
                tensor is not None
                and new.boxes == old.boxes
                and tensor.shape[1:] == start.shape[1:]
            ):
                start[: new.others] = tensor[: new.others]
                for label, old_label in kept.items():
                    start[new.logits(label)] = tensor[old.logits(old_label)]
                values[name] = start
    return values, kept, sorted(set(tensors) - set(values))


def _heads_of(network: Network) -> List[NamedTuple]:
    if isinstance(network.predictors, SharedHead):
        return [SharedClasses(network.predictors.boxes, network.predictors.classes)]
    return [
        Head(head.boxes, head.classes, f"{HEAD}{index}.conv")
        for index, head in enumerate(network.predictors)
    ]


def _described_heads(info, heads: List[NamedTuple]) -> List[NamedTuple]:
    """The file's heads, by its metadata."""
    return [
        head._replace(boxes=boxes, classes=info.config.model.num_classes)
        for head, boxes in zip(heads, sizes_of(info.config).per_cell)
    ]


def _guessed_heads(tensors, heads: List[NamedTuple], path: str) -> List[NamedTuple]:
    """The heads of a file without metadata: as many default boxes as the network's, and the number
    of classes that the size of the biases gives."""
    biases = [tensors.get(f"{head.name}.bias") for head in heads]
    found = [
        head._replace(
            classes=(len(bias) - head.others) // head.boxes + isinstance(head, SharedClasses)
        )
        for head, bias in zip(heads, biases)
        if bias is not None
    ]
    if not found or len({head.classes for head in found}) > 1 or found[0].classes < 2:
        raise UserError(
            f"weights {path}: neither their metadata nor the size of their heads gives the classes"
        )
    return found


def _classes_in_common(old_names: Sequence[str], new_names: Sequence[str]) -> Dict[int, int]:
    """Class of the network -> class of the file: the background, and each name that occurs exactly
    once in both (ignoring case)."""
    old, new = ([name.strip().casefold() for name in names] for names in (old_names, new_names))
    return {
        0: 0,
        **{
            1 + index: 1 + old.index(name)
            for index, name in enumerate(new)
            if new.count(name) == old.count(name) == 1
        },
    }


def _summary(parameters, values, kept: Dict[int, int], names: Sequence[str]) -> str:
    heads = [name for name in parameters if name.startswith(HEAD)]
    others = [name for name in parameters if name not in heads]
    taken = [name for name in heads if name in values]
    missing = [name for name in parameters if name not in values]
    text = (
        f"{sum(name in values for name in others)} of {len(others)} tensors of backbone and extra "
        "features are taken"
    )
    if taken:
        known = ["background"] + [names[label - 1] for label in kept if label]
        text += (
            f"; of {len(taken)} of {len(heads)} tensors of the heads ({taken[0]} to {taken[-1]}) "
            f"the offsets and the logits of {_some(known)}"
        )
    new = [name for label, name in enumerate(names, start=1) if label not in kept]
    if taken and new:
        text += f", while those of {_some(new)} are initialised"
    if missing:
        text += f"; initialised: {_some(missing)}"
    return text


def _some(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    shown = list(names[:4]) if len(names) > 5 else list(names)
    return ", ".join(shown) + (f" and {len(names) - 4} more" if len(names) > 5 else "")
