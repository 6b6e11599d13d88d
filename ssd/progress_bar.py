"""How far long work over images is, on standard error."""

from __future__ import annotations

import shutil
import sys
import time

SECONDS_PER_LINE = 10  # between two lines of progress where standard error is no terminal


class ProgressBar:
    """How far the images are, on standard error: a bar on a terminal, elsewhere a line now and
    then."""

    def __init__(self, label: str):
        self.label, self.bar, self.last = label, None, time.monotonic()

    def __call__(self, done: int, images: int) -> None:
        if sys.stderr.isatty():
            if self.bar is None:
                from tqdm import tqdm

                tqdm.monitor_interval = (
                    0  # its thread shares locks that an interrupt may leave taken
                )
                columns, lines = (
                    shutil.get_terminal_size()
                )  # tqdm shows nothing on a terminal of unknown size
                self.bar = tqdm(
                    total=images,
                    desc=self.label,
                    unit="image",
                    file=sys.stderr,
                    leave=False,
                    ncols=columns,
                    nrows=lines,
                )
            self.bar.update(done - self.bar.n)
        elif time.monotonic() - self.last >= SECONDS_PER_LINE:
            self.last = time.monotonic()
            print(f"{self.label}: {done} of {images} images", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
