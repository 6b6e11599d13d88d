"""What follows from the size of the image: feature maps, extra blocks, steps, scales and aspect
ratios.

For 300 pixels these are exactly the reference's values and for 512 SSD512's. Between and beyond,
the two are joined smoothly: see `computed_scales`. A recipe leaves a setting empty to have
it computed, or names its values.

Sources: [paper] Liu et al., SSD: Single Shot MultiBox Detector, 2016, section 3.4: on COCO the
first map's boxes have .07 of the image's side and the second's .15 in SSD300, .04 and .1 in SSD512.
[script] its authors' ssd_coco.py: from there to .9 in equal steps, of whole percents.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ssd.errors import UserError

Shape = Tuple[int, int]  # height, width

# Halvings of the image's sides, rounding up, that lead to each map of a backbone; the tests compare
# them with the network.
HALVINGS = {
    "resnet34": (3,),
    "resnet50": (3,),
    "resnext50_32x4d": (3, 4, 5),
    "mobilenet_v2": (4, 5),
    "mobilenet_v3_large": (4, 5),
}
# Channels of the last map of the backbones whose extra blocks are inverted residuals.
LAST = {"mobilenet_v2": 1280, "mobilenet_v3_large": 960}
SETTINGS = (
    "model.extra_channels",
    "model.extra_strides",
    "model.extra_pads",
    "default_boxes.steps",
    "default_boxes.scales",
    "default_boxes.aspect_ratios",
)


class SsdSizes(NamedTuple):
    """What follows from an image of (height, width) pixels; n feature maps, of which the extra
    blocks give the last.

    maps: (height, width) of each feature map [cells]. channels: of the (1x1, 3x3) convolutions of
    each extra block; strides, pads: of its 3x3 convolution. steps: per map the distances of
    neighbouring (rows, columns) of centres [pixels]. scales: per map and one more, the side of its
    square box [pixels]. aspect_ratios: per map.
    """

    image_size: Shape
    maps: Tuple[Shape, ...]
    channels: Tuple[Tuple[int, int], ...]
    strides: Tuple[int, ...]
    pads: Tuple[int, ...]
    steps: Tuple[Tuple[float, float], ...]
    scales: Tuple[float, ...]
    aspect_ratios: Tuple[Tuple[float, ...], ...]
    rule: str = "ssd"

    @property
    def per_cell(self) -> Tuple[int, ...]:
        """Per feature map the number of default boxes at each of its cells."""
        return tuple(map(len, self.shapes()))

    @property
    def grid(self) -> Tuple[Tuple[int, int], ...]:
        """Per feature map its cells and the default boxes of each."""
        return tuple(
            (height * width, boxes) for (height, width), boxes in zip(self.maps, self.per_cell)
        )

    @property
    def clipped(self) -> bool:
        """Whether boxes are cut to the image's size."""
        return self.rule == "ssd"

    @property
    def span(self) -> Tuple[float, float]:
        """Side of the smallest and of the largest square default box, without the geometric means
        [pixels]."""
        return self.scales[0], self.scales[-1]

    def shapes(self) -> List[List[Tuple[float, float]]]:
        """Per feature map the (width, height) of its default boxes, in shares of the image's width
        and height.

        The square of the map's scale, the square of the geometric mean with the next scale, then
        for each aspect ratio a the boxes a:1 and 1:a of the first square's area. By the rule
        "mobile", MindCV's, the square of the mean comes last, and the first map has a square of
        half its scale and no mean.
        """
        height, width = self.image_size
        mobile, shapes = self.rule == "mobile", []
        for scale, following, ratios in zip(self.scales, self.scales[1:], self.aspect_ratios):
            wide, high, between = scale / width, scale / height, (scale * following) ** 0.5
            mean = [(between / width, between / height)]
            others = [
                shape
                for root in (ratio**0.5 for ratio in ratios)
                for shape in ((wide * root, high / root), (wide / root, high * root))
            ]
            if not mobile:
                shapes.append([(wide, high)] + mean + others)
            elif not shapes:
                shapes.append([(wide / 2, high / 2)] + others)
            else:
                shapes.append([(wide, high)] + others + mean)
        return shapes

    def outside(self) -> int:
        """Number of default boxes whose centre lies outside the image, where the given steps do not
        fit."""
        height, width = self.image_size
        count = 0
        for (rows, columns), (row, column), boxes in zip(self.maps, self.steps, self.per_cell):
            inside = sum((index + 0.5) * row <= height for index in range(rows)) * sum(
                (index + 0.5) * column <= width for index in range(columns)
            )
            count += (rows * columns - inside) * boxes
        return count


def ssd_sizes(config) -> SsdSizes:
    """The sizes of a recipe: those that its settings give, the others computed. UserError for
    settings that do not fit the image or each other, naming the setting."""
    model, boxes = config.model, config.default_boxes
    mobile = (
        LAST.get(model.backbone) if model.features in ("ssdlite_blocks", "mobile_blocks") else None
    )
    if mobile is None and len(HALVINGS[model.backbone]) == 2:
        raise UserError(
            f"features {model.features}: {model.backbone} has two maps, which are for "
            "ssdlite_blocks or mobile_blocks"
        )
    found = sizes_from(
        model.image_size,
        HALVINGS[model.backbone],
        {
            name: getattr(model if name.startswith("model.") else boxes, name.partition(".")[2])
            for name in SETTINGS
        },
        mobile,
        ends=64 if model.features == "ssdlite_blocks" else 128,
        most=1.1 if boxes.rule == "ssd" else 1.0,
    )
    return found._replace(rule=boxes.rule)


def sizes_from(
    image_size: Shape,
    halvings: Sequence[int],
    given: Dict[str, Any],
    mobile: Optional[int] = None,
    ends: int = 64,
    most: float = 1.1,
) -> SsdSizes:
    """image_size: (height, width). halvings: of the backbone's maps. given: values of SETTINGS;
    those that are empty or missing are computed. UserError as of `ssd_sizes`.

    mobile: channels of the backbone's last map, where extra blocks are inverted residuals; ends:
    channels of the last of them; most: share of the image's side that the scale behind the last map
    has.
    """
    channels, strides, pads, steps, scales, ratios = (given.get(name) or () for name in SETTINGS)
    if bool(strides) != bool(pads):
        raise UserError("extra_strides and extra_pads go together: name both or neither")
    taps = [halved(image_size, times) for times in halvings]
    if not strides:
        strides, pads = inverted_residuals(taps[-1]) if mobile else extra_blocks(taps[-1])
    channels = channels or (
        mobile_channels(len(strides), mobile, ends) if mobile else extra_channels(len(strides))
    )
    count = len(taps) + len(strides)
    if mobile:
        scales = scales or mobile_scales(image_size, count, most)
        ratios = ratios or (((2.0,),) if most == 1.0 else ((2.0, 3.0),)) + ((2.0, 3.0),) * (
            count - 1
        )
    for name, length, wanted in (
        ("extra_pads", len(pads), len(strides)),
        ("extra_channels", len(channels), len(strides)),
        ("steps", len(steps) or count, count),
        ("scales", len(scales) or count + 1, count + 1),
        ("aspect_ratios", len(ratios) or count, count),
    ):
        if length != wanted:
            raise UserError(
                f"{name}: {wanted} values are needed for {count} feature maps, not {length}"
            )
    maps = feature_maps(image_size, taps, strides, pads)
    return SsdSizes(
        tuple(image_size),
        maps,
        tuple(channels),
        tuple(strides),
        tuple(pads),
        tuple((step, step) for step in steps)
        or computed_steps(image_size, halvings, maps, strides, pads),
        tuple(scales) or computed_scales(image_size, count),
        tuple(ratios) or computed_ratios(count),
    )


def halved(image_size: Shape, times: int) -> Shape:
    """(height, width) after `times` layers that halve it, each rounding up."""
    for _ in range(times):
        image_size = (-(-image_size[0] // 2), -(-image_size[1] // 2))
    return image_size


def extra_blocks(size: Shape) -> Tuple[Tuple[int, ...], Tuple[int, ...]]:
    """Strides and paddings of the 3x3 convolutions that lead from a map of (height, width) cells to
    one whose shorter side is 1.

    Each halves, rounding up; where the shorter side has 5 or 3 cells there is no padding and no
    stride, as in SSD300.
    """
    strides, pads, shorter = [], [], min(size)
    while shorter > 1:
        halve = shorter not in (3, 5)
        strides.append(2 if halve else 1)
        pads.append(1 if halve else 0)
        shorter = -(-shorter // 2) if halve else shorter - 2
    return tuple(strides), tuple(pads)


def inverted_residuals(size: Shape) -> Tuple[Tuple[int, ...], Tuple[int, ...]]:
    """Strides and paddings of the blocks that lead from a map of (height, width) cells to one whose
    shorter side is 1: each halves, rounding up, as in SSDLite."""
    blocks, shorter = 0, min(size)
    while shorter > 1:
        blocks, shorter = blocks + 1, -(-shorter // 2)
    return (2,) * blocks, (1,) * blocks


def mobile_channels(blocks: int, inputs: int, ends: int) -> Tuple[Tuple[int, int], ...]:
    """Per inverted residual its inner and its output channels: the published ones of four blocks,
    the last repeated. (uvipen/SSD-pytorch, MindCV)"""
    outputs = [512, 256, 256, ends] + [ends] * max(0, blocks - 4)
    shares = [0.2, 0.25, 0.5, 0.25] + [1.0] * max(0, blocks - 4)
    return tuple(
        (round(before * share), after)
        for before, share, after in list(zip([inputs] + outputs, shares, outputs))[:blocks]
    )


def mobile_scales(image_size: Shape, maps: int, most: float) -> Tuple[float, ...]:
    """Side of the square box of each map, and of one more [pixels]: .2 of the image's shorter side
    to .95 in equal steps, then `most`."""
    side = min(image_size)
    step = 0.75 / max(1, maps - 1)
    return tuple(round((0.2 + step * index) * side, 9) for index in range(maps)) + (most * side,)


def feature_maps(
    image_size: Shape, taps: Sequence[Shape], strides: Sequence[int], pads: Sequence[int]
) -> Tuple[Shape, ...]:
    """(height, width) of each feature map [cells]. UserError where one would have no cell."""
    maps = list(taps)
    for stride, pad in zip(strides, pads):
        span = [side + 2 * pad - 3 for side in maps[-1]]
        if stride < 1 or pad < 0 or min(span) < 0:
            raise UserError(
                f"image_size {size_text(image_size)}: too small for {len(taps) + len(strides)} "
                f"feature maps: extra block {len(maps) - len(taps)}, of stride {stride} and "
                f"padding {pad}, has {maps[-1][0]} x {maps[-1][1]} cells to work on (leave "
                "extra_strides and extra_pads empty to have them computed)"
            )
        maps.append((span[0] // stride + 1, span[1] // stride + 1))
    return tuple(maps)


def computed_steps(
    image_size: Shape,
    halvings: Sequence[int],
    maps: Sequence[Shape],
    strides: Sequence[int],
    pads: Sequence[int],
) -> Tuple[Tuple[float, float], ...]:
    """Distance of neighbouring centres on each map, (rows, columns) [pixels].

    The product of the strides so far. Behind a block without padding, and where rounding up has
    made the cells together more than a tenth wider than the image (in SSD300, a fifteenth), it is
    the image's side divided by the number of cells.
    """
    result = []
    product, padded = 1.0, True
    for index, cells in enumerate(maps):
        block = index - len(halvings)
        if block < 0:
            product = 2.0 ** halvings[index]
        else:
            product *= strides[block]
            padded = padded and pads[block] > 0
        fits = padded and all(cell * product <= 1.1 * side for cell, side in zip(cells, image_size))
        result.append(
            (product, product) if fits else (image_size[0] / cells[0], image_size[1] / cells[1])
        )
    return tuple(result)


def computed_scales(image_size: Shape, maps: int) -> Tuple[float, ...]:
    """Side of the square default box of each map, and of one more [pixels]: whole percents of the
    image's shorter side (beyond 2048 pixels, where these are too coarse, tenths of them).

    The first map's box has 21 pixels as in SSD300 and, nearly, in SSD512; the second's 45, and 51
    at 512. Smaller images have slightly smaller boxes, which cover more of COCO's objects
    (docs/summary.md). After the second, equal steps in whole percents lead to at most .9 of the
    image's side.
    """
    side = min(image_size)
    unit = 100 if side <= 2048 else 1000
    ratio = side / 300
    first = 21 * min(1.0, ratio) ** 0.25
    second = 45 * ratio ** (0.24 if ratio > 1 else 0.45)
    first, second = (round(unit * pixels / side) for pixels in (first, second))
    step = (unit * 9 // 10 - second) // max(1, maps - 2)
    return tuple(
        part * side / unit for part in [first] + [second + step * index for index in range(maps)]
    )


def computed_ratios(maps: int) -> Tuple[Tuple[float, ...], ...]:
    """Per map its aspect ratios: 2 at the first map and the last two, 2 and 3 between."""
    return tuple((2.0, 3.0) if 0 < index < maps - 2 else (2.0,) for index in range(maps))


def extra_channels(blocks: int) -> Tuple[Tuple[int, int], ...]:
    """Per extra block the channels of its 1x1 and of its 3x3 convolution: the reference's, the last
    ones repeated."""
    return tuple((256, 512) if index < 2 else (128, 256) for index in range(blocks))


def without_computed(values: Dict[str, Any], image_size: Shape, backbone: str) -> Dict[str, Any]:
    """Those of `values` (SETTINGS by name, lists) that equal what would be computed, as empty
    lists: older versions saved computed values as if they had been given."""
    if backbone not in HALVINGS:
        return {}
    computed = sizes_from(image_size, HALVINGS[backbone], {})
    steps = [row if row == column else None for row, column in computed.steps]
    own = dict(
        zip(
            SETTINGS,
            (
                computed.channels,
                computed.strides,
                computed.pads,
                steps,
                computed.scales,
                computed.aspect_ratios,
            ),
        )
    )
    return {
        name: []
        for name in SETTINGS
        if values.get(name) and _plain(values[name]) == _plain(own[name])
    }


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def size_text(image_size: Shape) -> str:
    """'300 x 300', height first."""
    return f"{image_size[0]} x {image_size[1]}"
