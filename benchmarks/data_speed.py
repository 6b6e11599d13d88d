"""Images per second of training data, against the reference's way in Python and against decoding
alone.

    python benchmarks/data_speed.py [COCO_FOLDER] [--annotations FILE --images FOLDER] [--rounds 8]
        [--seconds 3] [--before FOLDER_OF_ANOTHER_STATE]

The sides alternate in one run on the same cores, each a process of its own that is stopped while
another works:

    ours     ssd.data.pipeline.TrainingLoader: read, decode, crop, resize, colour, flip, normalise,
             match and encode, up to the batch in MXNet arrays
    pillow   the same steps as the PyTorch reference takes them: Pillow, NumPy, one process per core
             as a DataLoader has, batches collated in NumPy; without sending them to a parent
             process, in its favour
    decode   OpenCV's libjpeg-turbo on as many threads, the complete image, nothing else: the limit
    before   ours, of another state of this repository, a git worktree (--before)

Prints images/s (median, least, most) and the ratios round by round. Without COCO_FOLDER shapes are
drawn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks.turns import Worker, end_workers_with_us, machine, serve, spread

SIDES = ("ours", "pillow", "decode")
BEFORE = "before"


def load(arguments):
    """(config, data set, matcher)."""
    from ssd.config import load_recipe
    from ssd.datasets.coco import load_coco
    from ssd.model.detector import build_detector

    dataset = load_coco(
        arguments.annotations,
        arguments.images,
        check_images="exists",
        skip_bad=True,
        report=lambda line: None,
    )
    config = load_recipe("ssd-resnet34-coco").with_values(
        batch_size=arguments.batch_size,
        num_classes=dataset.num_classes,
        data_threads=arguments.threads,
        prefetch=arguments.prefetch,
    )
    return config, dataset, build_detector(config).matcher


def paced(batch, batch_size):
    """A handler: images of this process per second of wall time, and its CPU milliseconds an
    image."""

    def run(seconds):
        for _ in range(3):  # what was made before this turn
            batch()
        images, start, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() < start + seconds:
            batch()
            images += batch_size
        spent = time.perf_counter() - start
        return [images / spent, 1e3 * (time.process_time() - cpu) / images]

    return run


# ---- the sides


def ours(arguments):
    from ssd.data import bridge  # noqa: F401  imports MXNet before the timed part
    from ssd.data.pipeline import TrainingLoader

    config, dataset, matcher = load(arguments)
    loader = TrainingLoader(config, dataset, matcher, seed=1)

    def batch():
        for array in next(loader)[:3]:
            array.wait_to_read()

    return batch


def decode(arguments):
    from concurrent.futures import ThreadPoolExecutor

    import cv2
    import numpy as np

    _, dataset, _ = load(arguments)
    threads, random = ThreadPoolExecutor(arguments.threads), np.random.default_rng(0)
    paths = [os.path.join(dataset.image_folder, name) for name in dataset.file_names]

    def image(index):
        with open(paths[index], "rb") as file:
            return cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)

    return lambda: list(threads.map(image, random.integers(0, len(paths), arguments.batch_size)))


def pillow(arguments):
    import numpy as np
    from PIL import Image

    config, dataset, matcher = load(arguments)
    random, settings = np.random.RandomState(os.getpid()), config.augmentation
    size = (config.model.image_size.width, config.model.image_size.height)
    default_ltrb = matcher.default_boxes_ltrb
    mean, std = [
        np.float32(values)[:, None, None]
        for values in (config.data.pixel_mean, config.data.pixel_std)
    ]
    samples = [
        (
            os.path.join(dataset.image_folder, dataset.file_names[index]),
            (dataset.boxes_ltrb[rows] / np.tile(dataset.sizes[index], 2)).astype(np.float32),
            dataset.box_classes[rows],
        )
        for index in dataset.images_with_boxes
        for rows in [np.flatnonzero(dataset.box_image == index)]
    ]

    def sample(path, boxes, labels):
        with Image.open(path) as file:
            image = file.convert("RGB")
        image, boxes, labels = random_crop(image, boxes, labels, settings, random)
        if random.rand() < settings.flip_probability:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
            boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], 1)
        image = colour_jitter(image.resize(size, Image.BILINEAR), settings, random)
        pixels = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)).astype(np.float32)
        pixels /= 255
        pixels -= mean
        pixels /= std
        return (pixels, *encode(boxes, labels, default_ltrb, config.default_boxes))

    def batch():
        made = [
            sample(*samples[index])
            for index in random.randint(0, len(samples), arguments.batch_size)
        ]
        return [np.stack(parts) for parts in zip(*made)]

    return batch


# ---- the reference's steps


def iou(one, other):
    """IoU of boxes (m, 4) with (n, 4), ltrb: (m, n)."""
    import numpy as np

    sides = np.clip(
        np.minimum(one[:, None, 2:], other[:, 2:]) - np.maximum(one[:, None, :2], other[:, :2]),
        0,
        None,
    )
    common = sides[..., 0] * sides[..., 1]
    area = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (one, other)]
    return common / (area[0][:, None] + area[1] - common)


def random_crop(image, boxes, labels, settings, random):
    """The SSD crop: window by window until one is accepted or the complete image is kept."""
    import numpy as np

    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    while True:
        least = (None, *settings.crop_min_iou)[random.randint(1 + len(settings.crop_min_iou))]
        if least is None:
            return image, boxes, labels
        for _ in range(settings.crop_attempts):
            width, height = random.uniform(*settings.crop_scale, 2)
            if not settings.crop_aspect[0] <= width / height <= settings.crop_aspect[1]:
                continue
            left, top = random.uniform(0, 1 - width), random.uniform(0, 1 - height)
            window = np.float32([left, top, left + width, top + height])
            if not (iou(boxes, window[None]) > (least or -1)).all():
                continue
            stay = ((centres > window[:2]) & (centres < window[2:])).all(1)
            if not stay.any():
                continue
            boxes = np.clip(boxes[stay], np.tile(window[:2], 2), np.tile(window[2:], 2))
            boxes = (boxes - np.tile(window[:2], 2)) / np.tile(window[2:] - window[:2], 2)
            pixels = (window * np.tile(image.size, 2)).astype(int).tolist()
            return image.crop(pixels), boxes, labels[stay]


def colour_jitter(image, settings, random):
    """torchvision's ColorJitter by its Pillow backend: the four changes in a random order."""
    import numpy as np
    from PIL import Image, ImageEnhance

    def hue(image):
        turn = int(random.uniform(-settings.hue, settings.hue) / 360 * 255)
        h, s, v = image.convert("HSV").split()
        h = Image.fromarray((np.asarray(h).astype(np.int16) + turn).astype(np.uint8))
        return Image.merge("HSV", (h, s, v)).convert("RGB")

    def enhanced(kind, spread):
        return lambda image: kind(image).enhance(random.uniform(1 - spread, 1 + spread))

    changes = [
        enhanced(ImageEnhance.Brightness, settings.brightness),
        enhanced(ImageEnhance.Contrast, settings.contrast),
        enhanced(ImageEnhance.Color, settings.saturation),
        hue,
    ]
    for number in random.permutation(4):
        image = changes[number](image)
    return image


def encode(boxes, labels, default_ltrb, settings):
    """Offsets (N, 4) and classes (N,) of ground truth matched to default boxes."""
    import numpy as np

    overlaps = iou(boxes, default_ltrb)
    best, owner = overlaps.max(0), overlaps.argmax(0)
    claimed = overlaps.argmax(1)
    best[claimed], owner[claimed] = 2, np.arange(len(boxes))
    matched = best > settings.matching_iou
    classes = np.where(matched, labels[owner], 0).astype(np.int32)
    truth, sizes = boxes[owner[matched]], (default_ltrb[:, 2:] - default_ltrb[:, :2])[matched]
    centres = (default_ltrb[:, 2:] + default_ltrb[:, :2])[matched] / 2
    offsets = np.zeros((len(default_ltrb), 4), np.float32)
    offsets[matched] = np.concatenate(
        [
            ((truth[:, :2] + truth[:, 2:]) / 2 - centres) / sizes / settings.center_variance,
            np.log((truth[:, 2:] - truth[:, :2]) / sizes) / settings.size_variance,
        ],
        1,
    )
    return offsets, classes


# ---- turns


def work(arguments):
    """One side, in a process that `main` started; the Pillow way in one process per core."""
    for _ in range(arguments.threads - 1 if arguments.side == "pillow" else 0):
        if os.fork() == 0:
            break
    batch = dict(ours=ours, pillow=pillow, decode=decode)[arguments.side](arguments)
    batch()
    serve(arguments.socket, dict(run=paced(batch, arguments.batch_size)))


def measure(arguments):
    """{side: [(images/s, CPU milliseconds an image) of each round]}."""
    command = [
        "--annotations",
        os.path.abspath(arguments.annotations),
        "--images",
        os.path.abspath(arguments.images),
    ]
    for name in ("threads", "prefetch", "batch_size"):
        command += ["--" + name.replace("_", "-"), str(getattr(arguments, name))]
    sides = [*arguments.sides, *([BEFORE] if arguments.before else [])]
    results = {side: [] for side in sides}
    workers = {}
    try:
        for side in sides:
            script = os.path.abspath(__file__)
            if side == BEFORE:
                script = os.path.join(arguments.before, "benchmarks", os.path.basename(script))
            workers[side] = Worker(
                side,
                [
                    sys.executable,
                    script,
                    *command,
                    "--side",
                    "ours" if side == BEFORE else side,
                    "--socket",
                ],
                members=arguments.threads if side == "pillow" else 1,
            )
        for number in range(arguments.rounds):
            for side in sides[:: 1 if number % 2 == 0 else -1]:
                replies = workers[side].ask("run", seconds=arguments.seconds)
                replies = replies if side == "pillow" and arguments.threads > 1 else [replies]
                results[side].append(
                    (sum(rate for rate, _ in replies), statistics.mean(cpu for _, cpu in replies))
                )
    finally:
        for worker in workers.values():
            worker.close()
    return results


def report(results):
    print(f"{'median (least to most)':28} {'images/s':>28} {'CPU ms an image':>24}")
    for side, rounds in results.items():
        rates, cpu = zip(*rounds)
        print(f"{side:28} {spread(rates, '%.1f'):>28} {spread(cpu):>24}")
    for other in ("pillow", "decode", BEFORE):
        if other in results and "ours" in results:
            print(
                f"{'ours / ' + other:28} "
                f"{spread([a[0] / b[0] for a, b in zip(results['ours'], results[other])]):>28}"
            )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", nargs="?", help="a data set in COCO's folder layout; default: shapes are drawn"
    )
    parser.add_argument(
        "--annotations", help="instead of FOLDER's annotations/instances_train2017.json"
    )
    parser.add_argument("--images", help="instead of FOLDER's train2017")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each side")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a turn")
    parser.add_argument("--batch-size", type=int, default=32, help="default: 32, the recipe's")
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="data_threads of ours, processes of pillow, threads of decode; default: one per core",
    )
    parser.add_argument("--prefetch", type=int, default=2, help="batches that ours reads ahead")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument(
        "--before", metavar="FOLDER", help="another state of this repository, as one more side"
    )
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--socket", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if bool(arguments.annotations) != bool(arguments.images):
        parser.error("--annotations and --images go together")
    if arguments.side:
        return work(arguments)
    end_workers_with_us()
    with tempfile.TemporaryDirectory() as drawn:
        if not (arguments.folder or arguments.annotations):
            from ssd.datasets.shapes import make_shapes

            arguments.folder = os.path.join(drawn, "shapes")
            make_shapes(arguments.folder, train_images=200, val_images=1)
        if not arguments.annotations:
            names = [
                os.path.join(arguments.folder, "annotations", kind + "instances_train2017.json")
                for kind in ("", "bbox_only_")
            ]
            arguments.annotations = next(filter(os.path.exists, names), names[0])
            arguments.images = os.path.join(arguments.folder, "train2017")
        print(machine(), flush=True)
        report(measure(arguments))


if __name__ == "__main__":
    main()
