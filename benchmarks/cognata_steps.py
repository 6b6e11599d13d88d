"""Time and peak memory of some training steps of the Cognata recipe on a data set's images, one
image a step.

    python benchmarks/cognata_steps.py DATA_DIR [--steps 3] [--image-size 1080x1920]
        [--frozen-stages 2] [--static] [--weights-out FILE]

The steps of `train`, from random weights, except that MXNet plans no memory in advance (`--static`
does): at 2160x3840 that plan alone may be more than the machine has. Feature maps, steps and scales
are the recipe's [pixels], whatever the size. `evaluate` and `predict` read the file of weights.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
RECIPE = "ssd-resnet50-cognata"


def peak() -> float:
    """Peak memory of this process so far [GiB]."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--image-size", default="2160x3840")
    parser.add_argument("--frozen-stages", type=int, default=0)
    parser.add_argument(
        "--static", action="store_true", help="plan the memory in advance, as `train` does"
    )
    parser.add_argument("--weights-out", help="file to write the weights to")
    options = parser.parse_args()
    # If memory runs out, the system ends this process first.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")

    import mxnet as mx

    from ssd.config import load_recipe
    from ssd.data.pipeline import TrainingLoader
    from ssd.datasets.locate import load_dataset
    from ssd.model.boxes.ssd_sizes import SETTINGS
    from ssd.model.detector import build_detector, describe_sizes
    from ssd.model.initialization import initialize
    from ssd.model.weights import save_weights
    from ssd.model.weights_info import WeightsInfo
    from ssd.training.ranks import Ranks
    from ssd.training.schedule import build_schedule
    from ssd.training.step import TrainingStep

    plain = load_recipe(RECIPE)
    by_hand = {
        name: getattr(getattr(plain, section), name)
        for section, _, name in (setting.partition(".") for setting in SETTINGS)
    }
    config = plain.with_values(
        image_size=options.image_size,
        **by_hand,
        data_dir=options.data_dir,
        frozen_stages=options.frozen_stages,
        seed=0,
    )
    dataset = load_dataset(config, "train")
    detector = build_detector(config)
    print(describe_sizes(config, detector.sizes), flush=True)
    initialize(detector.network, 0, mx.cpu())
    with contextlib.closing(Ranks()) as ranks:
        step = TrainingStep(detector.network, detector.loss, config, ranks)
        if not options.static:
            step.graph.hybridize(static_alloc=False, static_shape=False)
        schedule = build_schedule(config.training, 1, len(dataset.images_with_boxes))
        with contextlib.closing(
            TrainingLoader(config, dataset, detector.matcher, seed=0)
        ) as loader:
            print(f"built: {peak():.2f} GiB", flush=True)
            for number in range(options.steps):
                batch = next(loader)
                start = time.perf_counter()
                losses = step.gradients(batch.images, batch.offsets, batch.classes, True)
                assert step.finite()
                step.update(schedule(1, number))
                class_loss, box_loss = (float(loss.sum().asscalar()) for loss in losses)
                mx.nd.waitall()
                print(
                    f"step {number + 1}: {time.perf_counter() - start:.1f} s, loss of classes "
                    f"{class_loss:.3f}, of boxes {box_loss:.3f}, peak {peak():.2f} GiB",
                    flush=True,
                )
                del losses, batch
    if options.weights_out:
        save_weights(
            detector.network,
            options.weights_out,
            WeightsInfo(config, dataset.category_ids, dataset.category_names),
        )


if __name__ == "__main__":
    main()
