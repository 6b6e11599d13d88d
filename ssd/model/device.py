"""Where the network runs."""

from __future__ import annotations

from dataclasses import dataclass

from ssd.config import Config
from ssd.errors import UserError


@dataclass(frozen=True)
class Device:
    """Where the network runs."""

    kind: str  # "cpu" or "gpu"
    index: int  # of the GPU; 0 on a CPU
    context: object  # mx.Context


def choose_device(config: Config, local_rank: int = 0) -> Device:
    """The device that the settings ask for; UserError if the machine or its MXNet does not have
    it."""
    import mxnet as mx

    count = mx.context.num_gpus()
    asked = config.run.device
    if asked == "gpu" and not count:
        raise UserError("--device gpu: MXNet sees no GPU on this machine")
    kind = ("gpu" if count else "cpu") if asked == "auto" else asked
    if kind == "gpu":
        if local_rank >= count:
            raise UserError(f"local rank {local_rank}: this machine has {count} GPUs")
        return Device("gpu", local_rank, mx.gpu(local_rank))
    for name, wanted in (("layout", "NCHW"), ("dtype", "float32")):
        if getattr(config.model, name) != wanted:
            raise UserError(
                f"--{name} {getattr(config.model, name)}: needs a GPU; on a CPU it is {wanted}"
            )
    if config.data.decode != "cpu":
        raise UserError(f"--decode {config.data.decode}: needs a GPU; on a CPU it is cpu")
    return Device("cpu", 0, mx.cpu())
