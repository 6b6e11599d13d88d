"""A generated data set in COCO's format: drawn shapes on textured backgrounds.

Designed to be learned from scratch in minutes on a CPU and still to need a detector: a class has
its outline and its family of hues (of any shade, on a grey background), while size, rotation,
texture and position do not depend on it; shapes overlap a little, and some images hold none. With
random colours, a quarter-width SSD-ResNet34 had learned nothing after 300 steps of 8 images.
"""

from __future__ import annotations

import colorsys
import json
import math
import os
from pathlib import Path

import numpy as np

from ssd.errors import UserError
from ssd.files import cannot_write, discard, put_in_place, remove_leftovers, temporary_path

FORMAT = 1  # raise it whenever the same parameters draw other images
RECORD = "shapes.json"
# Ids with gaps, as COCO's, so that mixing up ids and class numbers shows.
CATEGORIES = (
    {"id": 3, "name": "circle", "supercategory": "shape"},
    {"id": 7, "name": "square", "supercategory": "shape"},
    {"id": 11, "name": "triangle", "supercategory": "shape"},
)
FIRST_ID = {"train2017": 1, "val2017": 500001}
MAX_IMAGES = 100000
SUPERSAMPLING = 4
EMPTY_FRACTION = 0.07
COUNT_CHANCES = (0.1, 0.15, 0.2, 0.2, 0.2, 0.15)  # of 1 to 6 objects
# Chance, and range of the diameter in shares of the image's shorter side. Most fit the default
# boxes of the two finest feature maps, which are nearest to the backbone and learn first.
DIAMETERS = ((0.60, 0.16, 0.30), (0.25, 0.30, 0.45), (0.15, 0.10, 0.16))
MAX_COVERED = 0.2  # of any object's pixels, by later objects
# Share of the colour circle around the class's hue: families stay distinct under colour jitter of
# 0.05
HUE_SPREAD = 0.08


def make_shapes(
    folder,
    *,
    train_images: int = 600,
    val_images: int = 120,
    seed: int = 0,
    size_range=(240, 480),
    report=print,
) -> Path:
    """Generates the data set in `folder`, in COCO's layout, and returns the folder.

    train_images, val_images: 1 to 100,000 images each. seed: 0 to 2^63 - 1. size_range: smallest
    and largest side in pixels, 64 to 4096; width and height are drawn independently. About
    EMPTY_FRACTION of the images hold no object, the others 1 to 6. `area` is the count of visible
    pixels, boxes are tight around them (xywh, whole pixels), iscrowd is 0.

    Equal parameters give equal bytes (with one version of Pillow and NumPy). The set is built
    beside the folder and renamed when complete; its parameters are kept in shapes.json. If the
    folder holds exactly this set already, nothing is drawn. Raises UserError for parameters out of
    range and for a folder that holds anything else.
    """
    folder = Path(folder)
    parameters = _checked_parameters(train_images, val_images, seed, size_range)
    if _holds(folder, parameters):
        report(f"{folder}: holds these {train_images} + {val_images} images of shapes already")
        return folder
    partial = Path(temporary_path(os.fspath(folder.absolute())))
    try:
        try:
            partial.mkdir(parents=True)
            remove_leftovers(partial.parent)
            _generate(partial, parameters)
            try:  # not synced to the disc: they are easily drawn again
                put_in_place(partial, folder.absolute(), synced=False)
            except OSError:
                if not _holds(folder, parameters):  # otherwise another process was faster
                    raise
        finally:
            discard(partial)
    except OSError as error:
        raise cannot_write(f"shapes to {folder}", partial, error) from None
    report(
        f"{folder}: {train_images} training and {val_images} validation images of shapes, seed "
        f"{seed}"
    )
    return folder


def _checked_parameters(train_images, val_images, seed, size_range) -> dict:
    def integer(value, name, low, high):
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, np.integer))
            or not low <= value <= high
        ):
            raise UserError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
        return int(value)

    if not isinstance(size_range, (tuple, list)) or len(size_range) != 2:
        raise UserError(f"size_range must be two numbers of pixels, not {size_range!r}")
    low, high = (integer(side, "size_range", 64, 4096) for side in size_range)
    if low > high:
        raise UserError(f"size_range must be smallest and largest side, not {size_range!r}")
    return {
        "format": FORMAT,
        "train_images": integer(train_images, "train_images", 1, MAX_IMAGES),
        "val_images": integer(val_images, "val_images", 1, MAX_IMAGES),
        "seed": integer(seed, "seed", 0, 2**63 - 1),
        "size_range": [low, high],
    }


def _holds(folder: Path, parameters: dict) -> bool:
    """Whether the folder holds the set of these parameters; False if absent or empty, else
    UserError."""
    if not os.path.lexists(folder):
        return False
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    if not any(folder.iterdir()):
        return False
    try:
        record = json.loads((folder / RECORD).read_text())
        found, files = record["parameters"], record["files"]
        different = [name for name in parameters if found[name] != parameters[name]]
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(f"{folder} holds something else already (no readable {RECORD})") from None
    if different:
        name = different[0]
        raise UserError(
            f"{folder} holds other shapes already: {name} {found[name]!r}, not {parameters[name]!r}"
        )
    try:
        present = {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in folder.rglob("*")
            if path.is_file() and path.name != RECORD
        }
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from None
    if present != files:
        name = sorted(
            name for name in set(present) | set(files) if present.get(name) != files.get(name)
        )[0]
        raise UserError(f"{folder} holds these shapes, but one file was changed: {name}")
    return True


def _generate(folder: Path, parameters: dict) -> None:
    (folder / "annotations").mkdir(parents=True)
    for number, (split, count) in enumerate(
        [("train2017", parameters["train_images"]), ("val2017", parameters["val_images"])]
    ):
        (folder / split).mkdir()
        choice = np.random.default_rng([parameters["seed"], number])
        empty = set(choice.permutation(count)[: round(EMPTY_FRACTION * count)].tolist())

        images, annotations = [], []
        for index in range(count):
            # No threads: two were no faster than one (9.7 and 9.9 s for 720 images on two busy
            # cores).
            rng = np.random.default_rng([parameters["seed"], number, index])
            image, objects = draw_image(rng, parameters["size_range"], index in empty)
            image_id = FIRST_ID[split] + index
            name = f"{image_id:012d}.jpg"
            image.save(folder / split / name, quality=90)
            images.append(
                {"id": image_id, "file_name": name, "width": image.width, "height": image.height}
            )
            for category, box, area in objects:
                annotations.append(
                    {
                        "id": FIRST_ID[split] + len(annotations),
                        "image_id": image_id,
                        "category_id": CATEGORIES[category]["id"],
                        "bbox": box,
                        "area": area,
                        "iscrowd": 0,
                    }
                )
        content = {"images": images, "annotations": annotations, "categories": list(CATEGORIES)}
        path = folder / "annotations" / f"bbox_only_instances_{split}.json"
        path.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / RECORD).write_text(
        json.dumps({"parameters": parameters, "files": files}, indent=1) + "\n"
    )


def draw_image(rng, size_range, empty: bool):
    """One image: (Pillow RGB image, list of (category position, [x, y, w, h] pixels, visible
    area))."""
    from PIL import Image

    width, height = (int(side) for side in rng.integers(size_range[0], size_range[1] + 1, size=2))
    background = (rng.uniform(50, 205) + rng.uniform(-12, 12, size=3)).astype(np.float32)
    canvas = _texture(rng, width, height, background, strength=rng.uniform(8, 28))
    owner = np.full((height, width), -1, np.int16)
    objects, pixels, covered = [], np.zeros(0), np.zeros(0)
    wanted = 0 if empty else 1 + int(rng.choice(len(COUNT_CHANCES), p=COUNT_CHANCES))
    # If there is no space left, fewer are drawn; the first always fits.
    for _ in range(8 * wanted):
        if len(objects) == wanted:
            break
        category = int(rng.integers(len(CATEGORIES)))
        x, y, points = _random_shape(rng, category, width, height)
        rough = _coverage(points, 1) > 0
        window = (slice(y, y + rough.shape[0]), slice(x, x + rough.shape[1]))
        under = owner[window][rough]
        hidden = np.bincount(under[under >= 0], minlength=len(objects))
        if (covered + hidden > MAX_COVERED * np.minimum(pixels, rough.sum())).any():
            continue
        alpha = _coverage(points, SUPERSAMPLING)
        owner[window][alpha >= 0.5] = len(objects)
        objects.append(category)
        pixels, covered = np.append(pixels, rough.sum()), np.append(covered + hidden, 0)
        colour = _colour_of(rng, category)
        surface = _texture(rng, alpha.shape[1], alpha.shape[0], colour, strength=rng.uniform(3, 16))
        canvas[window] += alpha[..., None] * (surface - canvas[window])
    found = []
    for index, category in enumerate(objects):
        mine = owner == index
        columns, rows = np.flatnonzero(mine.any(axis=0)), np.flatnonzero(mine.any(axis=1))
        left, top = int(columns[0]), int(rows[0])
        found.append(
            (
                category,
                [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                int(np.count_nonzero(mine)),
            )
        )
    return Image.fromarray(canvas.astype(np.uint8)), found


def _random_shape(rng, category: int, width: int, height: int):
    """(x, y, points): corners (k, 2) in pixels from 0, completely inside the image if drawn at
    pixel (x, y)."""
    chances = np.array([chance for chance, _, _ in DIAMETERS])
    _, low, high = DIAMETERS[int(rng.choice(len(DIAMETERS), p=chances / chances.sum()))]
    diameter = min(width, height) * rng.uniform(low, high)
    points = _outline(rng, CATEGORIES[category]["name"])
    # A shape's size is the root of width x height of its box; no side may exceed the image.
    extent = np.ptp(points, axis=0)
    points = points * min(
        diameter / math.sqrt(extent.prod()), *((np.array([width, height]) - 2) / extent)
    )
    points -= points.min(axis=0)
    w, h = (math.ceil(side) + 1 for side in points.max(axis=0))
    return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), points


def _coverage(points: np.ndarray, samples: int) -> np.ndarray:
    """The filled polygon as (h, w) float32 coverage of each pixel, 0 to 1, from samples^2
    samples."""
    from PIL import Image, ImageDraw

    w, h = (math.ceil(side) + 1 for side in points.max(axis=0))
    mask = Image.new("L", (w * samples, h * samples))
    ImageDraw.Draw(mask).polygon((points * samples).ravel().tolist(), fill=255)
    if samples > 1:
        mask = mask.reduce(samples)
    return np.asarray(mask, np.float32) / np.float32(255)


def _outline(rng, name: str) -> np.ndarray:
    """Corners (k, 2) of a shape about the origin, radius about 1."""
    if name == "circle":
        angles = np.arange(64) * (2 * math.pi / 64)
    else:
        corners, upright = {"square": (4, 0.25 * math.pi), "triangle": (3, -0.5 * math.pi)}[name]
        first = upright if rng.random() < 0.5 else rng.uniform(0, 2 * math.pi)
        angles = first + np.arange(corners) * (2 * math.pi / corners)
    stretch = math.sqrt(rng.uniform(1, 1.3))
    stretches = [stretch, 1 / stretch] if rng.random() < 0.5 else [1 / stretch, stretch]
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * stretches


def _colour_of(rng, category: int) -> np.ndarray:
    """A colour (3,) RGB, 0 to 255, of the class's family: its hue, more than half saturated, any
    shade."""
    hue = category / len(CATEGORIES) + rng.uniform(-HUE_SPREAD, HUE_SPREAD)
    rgb = colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.65, 1), rng.uniform(0.55, 1))
    return np.array(rgb, np.float32) * np.float32(255)


def _texture(rng, width: int, height: int, colour, strength: float) -> np.ndarray:
    """(height, width, 3) float32, `colour` with soft blotches of +-strength, waves, and grain."""
    from PIL import Image

    # At half the scale, as the texture is soft.
    w, h = (width + 1) // 2, (height + 1) // 2
    cells = rng.uniform(
        -strength, strength, size=(int(rng.integers(3, 9)), int(rng.integers(3, 9)), 3)
    )
    cells = np.clip(cells + colour, 0, 255).astype(np.uint8)
    texture = np.array(Image.fromarray(cells).resize((w, h), Image.BICUBIC), np.float32)
    angle, period = rng.uniform(0, math.pi), rng.uniform(8, 40)
    amplitude = strength * rng.uniform(0, 0.5)
    phase_x = np.arange(w, dtype=np.float32) * np.float32(4 * math.pi * math.cos(angle) / period)
    phase_y = np.arange(h, dtype=np.float32) * np.float32(4 * math.pi * math.sin(angle) / period)
    shade = np.outer(np.sin(phase_y) * np.float32(amplitude), np.cos(phase_x))
    shade += np.outer(np.cos(phase_y) * np.float32(amplitude), np.sin(phase_x))
    grain = np.frombuffer(rng.bytes(w * h), np.int8).reshape(h, w)
    shade += grain * np.float32(strength * rng.uniform(0, 0.5) / 128)
    texture = np.clip(texture + shade[..., None], 0, 255).astype(np.uint8)
    return np.array(Image.fromarray(texture).resize((width, height), Image.BILINEAR), np.float32)
