"""What follows from the size of the image: feature maps, extra blocks, steps, scales and aspect ratios.

For 300 pixels these are the reference's values and for 512 SSD512's, to the last digit. Between and beyond, the two
are joined smoothly: see `scales`. A recipe leaves a setting empty to have it computed, or names it to have it its way.

Sources: [paper] Liu et al., SSD: Single Shot MultiBox Detector, 2016, section 3.4: on COCO the first map's boxes have
.07 of the image's side and the second's .15 in SSD300, .04 and .1 in SSD512. [script] its authors' ssd_coco.py: from
there to .9 in equal steps, of whole percents.
"""
from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

from ssd.errors import UserError

STRIDE = 8    # of the backbone
SMALLEST, LARGEST = 32, 2048    # [pixels]; below there are no three maps, above a percent is too coarse for a scale
SETTINGS = ("model.extra_channels", "model.extra_strides", "model.extra_pads",
            "default_boxes.steps", "default_boxes.scales", "default_boxes.aspect_ratios")


def backbone_size(image_size: int) -> int:
    """Side of the backbone's map: three layers that halve, each rounding up."""
    for _ in range(3):
        image_size = -(-image_size // 2)
    return image_size


def extra_blocks(size: int) -> Tuple[Tuple[int, ...], Tuple[int, ...]]:
    """Strides and paddings of the 3x3 convolutions that lead from a map of `size` cells a side to one of 1.

    Each halves, rounding up; at 5 and at 3 cells there is no padding and no stride, as in SSD300.
    """
    strides, pads = [], []
    while size > 1:
        halve = size not in (3, 5)
        strides.append(2 if halve else 1)
        pads.append(1 if halve else 0)
        size = -(-size // 2) if halve else size - 2
    return tuple(strides), tuple(pads)


def feature_sizes(image_size: int, strides: Sequence[int], pads: Sequence[int]) -> List[int]:
    """Side of each feature map [cells], from fine to coarse. UserError where one would have no cell."""
    sizes = [backbone_size(image_size)]
    for stride, pad in zip(strides, pads):
        room = sizes[-1] + 2 * pad - 3
        if stride < 1 or pad < 0 or room < 0:
            raise UserError(f"image_size {image_size}: too small for {len(strides) + 1} feature maps: extra block "
                            f"{len(sizes) - 1}, of stride {stride} and padding {pad}, has {sizes[-1]} cells a side to "
                            "work on (leave extra_strides and extra_pads empty to have them computed)")
        sizes.append(room // stride + 1)
    return sizes


def steps(image_size: int, strides: Sequence[int], pads: Sequence[int]) -> Tuple[float, ...]:
    """Distance of neighbouring centres on each map [pixels].

    The product of the strides so far; the image's side by the number of cells once a block had no padding, and where
    rounding up has made the cells more than a tenth wider, all together, than the image (in SSD300, a fifteenth).
    """
    result, product = [], float(STRIDE)
    padded = True
    for index, size in enumerate(feature_sizes(image_size, strides, pads)):
        if index:
            product *= strides[index - 1]
            padded = padded and pads[index - 1] > 0
        fits = padded and size * product <= 1.1 * image_size
        result.append(product if fits else image_size / size)
    return tuple(result)


def scales(image_size: int, maps: int) -> Tuple[float, ...]:
    """Side of the square default box of each map, and of one more [pixels]: whole percents of the image.

    The first map's box has 21 pixels as in SSD300 and, nearly, in SSD512; the second's 45, and 51 at 512. Smaller
    images have slightly smaller boxes, as these meet more of COCO's objects (docs/summary.md). From the second on,
    equal steps lead to .9 of the image's side or what whole percents leave of it.
    """
    ratio = image_size / 300
    first = 21 * min(1.0, ratio) ** 0.25
    second = 45 * ratio ** (0.24 if ratio > 1 else 0.45)
    first, second = (round(100 * side / image_size) for side in (first, second))
    step = (90 - second) // max(1, maps - 2)
    return tuple(percent * image_size / 100 for percent in [first] + [second + step * index for index in range(maps)])


def aspect_ratios(maps: int) -> Tuple[Tuple[float, ...], ...]:
    """2 at the first map and the last two, 2 and 3 between."""
    return tuple((2.0, 3.0) if 0 < index < maps - 2 else (2.0,) for index in range(maps))


def extra_channels(blocks: int) -> Tuple[Tuple[int, int], ...]:
    """Per extra block the channels of its 1x1 and of its 3x3 convolution: the reference's, the last ones repeated."""
    return tuple((256, 512) if index < 2 else (128, 256) for index in range(blocks))


def complete(image_size: int, given: Dict[str, Any]) -> Dict[str, Any]:
    """All SETTINGS ('section.name' -> value): those in `given`, the others computed. image_size: SMALLEST to LARGEST.
    UserError for given strides that do not fit the size, or without their paddings."""
    strides, pads = (given.get(f"model.extra_{name}") for name in ("strides", "pads"))
    if (strides is None) != (pads is None):
        raise UserError("extra_strides and extra_pads go together: name both or neither")
    if strides is None:
        strides, pads = extra_blocks(backbone_size(image_size))
    elif len(strides) != len(pads):
        raise UserError(f"extra_pads: {len(strides)} values are needed, as there are extra_strides, not {len(pads)}")
    maps = len(strides) + 1
    computed = (extra_channels(maps - 1), tuple(strides), tuple(pads), steps(image_size, strides, pads),
                scales(image_size, maps), aspect_ratios(maps))
    return {name: given.get(name, value) for name, value in zip(SETTINGS, computed)}
