"""A description of the machine, and its peak speed of arithmetic."""

from __future__ import annotations

import os
import platform
import sys
from typing import Dict, List

from ssd.benchmark.timing import spread, times_of

# (module, name of the library)
_LIBRARIES = (
    ("mxnet", "MXNet"),
    ("nvidia.dali", "DALI"),
    ("horovod", "Horovod"),
    ("cv2", "OpenCV"),
    ("hotcoco", "hotcoco"),
    ("numpy", "NumPy"),
)
# Like ResNet-34's third stage in SSD, which has most of the arithmetic.
CHANNELS, SIDE, LAYERS = 256, 38, 2
MATRIX = 2048


def describe_machine() -> Dict[str, object]:
    """Processor, cores, threads, memory, system, and versions of the loaded libraries."""
    libraries = {
        name: str(getattr(sys.modules[module], "__version__", "unknown"))
        for module, name in _LIBRARIES
        if module in sys.modules
    }
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = 0
    return dict(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        openmp_threads=os.environ.get("OMP_NUM_THREADS", "unset"),
        memory_bytes=memory,
        system=f"{platform.system()} {platform.release()}",
        versions=dict(Python=platform.python_version(), **libraries),
        gpus=_gpus(),
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next(
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _gpus() -> int:
    return sys.modules["mxnet"].context.num_gpus() if "mxnet" in sys.modules else 0


class Peaks:
    """The peak speed of the device with the network's layout and type: of two consecutive 3x3
    convolutions of 256 channels, forward, and of a matrix product of side 2048. Call `measure`
    before and after the work to compare with, because the speed of a shared machine changes."""

    def __init__(self, model, device, batch_size: int = 0):
        """model: a ModelConfig. batch_size: of the convolutions, by default enough to fill the
        device."""
        import mxnet as mx
        from mxnet.gluon import nn

        batch = batch_size or (64 if device.kind == "gpu" else 8)
        shape = (
            (batch, CHANNELS, SIDE, SIDE)
            if model.layout == "NCHW"
            else (batch, SIDE, SIDE, CHANNELS)
        )
        network = nn.HybridSequential()
        for _ in range(LAYERS):
            network.add(
                nn.Conv2D(
                    CHANNELS,
                    3,
                    padding=1,
                    use_bias=False,
                    in_channels=CHANNELS,
                    layout=model.layout,
                )
            )
        # With weights of this size the numbers neither grow nor vanish: subnormal ones are slow.
        network.initialize(mx.init.Normal((9 * CHANNELS) ** -0.5), ctx=device.context)
        network.cast(model.dtype)
        network.hybridize(static_alloc=True, static_shape=True)
        images = mx.nd.random.normal(shape=shape, ctx=device.context).astype(model.dtype)
        matrices = [
            mx.nd.random.normal(shape=(MATRIX, MATRIX), ctx=device.context).astype(model.dtype)
            for _ in range(2)
        ]
        self._work = dict(
            convolution=lambda: network(images).wait_to_read(),
            matrix_product=lambda: mx.nd.dot(*matrices).wait_to_read(),
        )
        self._operations = dict(
            convolution=2 * LAYERS * batch * (SIDE * CHANNELS) ** 2 * 9,
            matrix_product=2 * MATRIX**3,
        )
        self._seconds: Dict[str, List[float]] = {name: [] for name in self._work}

    def measure(self, repeats: int) -> None:
        for name, work in self._work.items():
            self._seconds[name] += times_of(
                work, repeats, warmup=0 if self._seconds[name] else 1
            ).tolist()

    def results(self) -> Dict[str, dict]:
        """Operations a second of each kind, as a spread."""
        return {
            name: spread([self._operations[name] / second for second in seconds])
            for name, seconds in self._seconds.items()
        }


def arithmetic(
    multiply_adds: int, images_per_second: float, peaks: Dict[str, dict], ranks: int = 1
) -> dict:
    """Operations (two per multiply-add) per image and per second of all ranks, and the fractions of
    the peaks, which are per rank."""
    rate = 2 * multiply_adds * images_per_second
    return dict(
        operations_per_image=2 * multiply_adds,
        operations_per_second=rate,
        peaks=peaks,
        share_of_peak={name: rate / ranks / peak["median"] for name, peak in peaks.items()},
    )
