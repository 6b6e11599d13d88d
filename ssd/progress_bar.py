"""ProgressBar of long work over images, on standard error."""

from __future__ import annotations

import shutil
import sys
import time

SECONDS_PER_LINE = 10  # between progress lines if standard error is not a terminal


class ProgressBar:
    """Shows progress over images on standard error: a bar on a terminal, otherwise a line every
    SECONDS_PER_LINE."""

    def __init__(self, label: str):
        self.label, self.bar, self.last = label, None, time.monotonic()

    def __call__(self, done: int, images: int) -> None:
        if sys.stderr.isatty():
            if self.bar is None:
                from tqdm import tqdm

                # No monitor thread: it shares locks that an interrupt may leave taken.
                tqdm.monitor_interval = 0
                # tqdm shows nothing on a terminal of unknown size.
                columns, lines = shutil.get_terminal_size()
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
