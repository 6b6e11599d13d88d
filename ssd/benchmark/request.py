"""The settings of a benchmark, and its data."""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

from ssd.config import Config
from ssd.errors import UserError

PART_STEPS = 5  # steps measured in parts, at most
TRACE_STEPS = 2


class Request(NamedTuple):
    """The flags of `python -m ssd benchmark`."""

    mode: str
    config: Config
    steps: Optional[int] = None  # None: the default of the mode
    warmup: Optional[int] = None
    has_data: bool = False  # whether a data set was named
    trace: str = ""
    images: int = 5000  # of the synthetic annotations
    detections: int = 1000000
    annotations: str = ""
    scorer: Optional[str] = None
    categories: int = 80  # of the synthetic annotations

    def counts(self, steps: int, warmup: int) -> Tuple[int, int]:
        """(steps, warm-up steps); the arguments are the defaults."""
        return (steps if self.steps is None else self.steps), (
            warmup if self.warmup is None else self.warmup
        )

    @property
    def seed(self) -> int:
        return max(0, self.config.run.seed)

    def open_data(
        self, split: str, ranks: int, batch_size: int, steps: int, warmup: int, extra: int
    ):
        """(data set, settings that fit it, steps). Uses each image once at most, because a file
        read twice comes from memory. UserError if there are too few images for --steps; the default
        number of steps is reduced instead."""
        from ssd.data.resolve import resolve
        from ssd.datasets.locate import load_dataset

        dataset = load_dataset(self.config, split)
        config = resolve(self.config, dataset)
        images = len(dataset.images_with_boxes) if split == "train" else dataset.num_images
        if batch_size * ranks > images:
            raise UserError(
                f"batch size {batch_size}: {batch_size * ranks} images a step are more than the "
                f"{images} of {dataset.path}" + (" with a box" if split == "train" else "")
            )
        most = images // (batch_size * ranks) - warmup - extra
        if self.steps is None:
            steps = min(steps, max(most, 1))
        if steps > most:
            parts = [f"{steps} steps", f"{warmup} of warm-up"] + (
                [f"{extra} more"] if extra else []
            )
            raise UserError(
                f"--steps {steps}: {', '.join(parts)}, of {batch_size * ranks} images each, are "
                f"{(steps + warmup + extra) * batch_size * ranks} images; {dataset.path} has "
                f"{images}" + (" with a box" if split == "train" else "")
            )
        return dataset, config, steps
