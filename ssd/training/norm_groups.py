"""BatchNorm over groups of ranks, by one of two implementations."""

from __future__ import annotations

from mxnet.gluon import Block

from ssd.config import Config
from ssd.errors import UserError
from ssd.model.batch_norm import BatchNorm, batch_norms
from ssd.training import nvidia_batch_norm


def join_groups(network: Block, config: Config, ranks) -> str:
    """Joins every trained BatchNorm of an initialised network to its counterparts on the other
    ranks of this rank's group. Returns a line about how, "" if training.batch_norm_ranks is 1.
    Collective.

    Groups are neighbouring ranks, see Ranks.group_mean. UserError if no BatchNorm is trained.
    """
    size = config.training.batch_norm_ranks
    if size == 1:
        return ""
    norms = batch_norms(network)
    if not norms:
        raise UserError(f"--batch-norm-ranks {size}: no BatchNorm of the network is trained")
    start = f"BatchNorm over groups of {size} ranks, {size * config.training.batch_size} images: "
    why = nvidia_batch_norm.join(norms, config, ranks, size, synchronise)
    if not why:
        return start + "by MXNet's own operator"
    for number, norm in enumerate(norms):
        synchronise(norm, ranks, size, f"batch norm {number}")
    return start + f"{2 * len(norms)} exchanges a step through Horovod ({why})"


def synchronise(norm: BatchNorm, ranks, size: int, name: str) -> None:
    """Joins one BatchNorm through Horovod."""
    norm.synchronise(lambda array, exchange: ranks.group_mean(array, size, exchange), name)
