"""Horovod: the ranks of a run and what they tell each other."""
from __future__ import annotations

import os
from typing import List

import numpy as np

# Set by mpirun (Open MPI, PMIx), horovodrun and srun, in the order in which they are believed.
_RANK_VARIABLES = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")


def rank_from_environment() -> int:
    """This process's rank as the launcher says it, 0 without one; for what happens before Horovod is up."""
    for name in _RANK_VARIABLES:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def load_before_horovod() -> None:
    """Loads the libraries that decode JPEGs.

    Horovod loads its library with RTLD_GLOBAL, and with it the libjpeg inside MXNet 1.9.1. Libraries loaded later
    then call that one instead of their own: Pillow finds every JPEG broken, DALI crashes. Loaded first, they are
    bound to their own.
    """
    import PIL._imaging  # noqa: F401
    import nvidia.dali.fn  # noqa: F401
    import nvidia.dali.pipeline  # noqa: F401


class Ranks:
    """The ranks of this run; all methods but `close` are collective: every rank calls them in the same order.

    Every exchange has a fixed name, so that Horovod refuses mixed-up orders instead of mixing the numbers.
    """

    def __init__(self):
        load_before_horovod()
        import horovod.mxnet as hvd
        self._hvd = hvd
        hvd.init()
        self.rank, self.size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def broadcast_parameters(self, parameters) -> None:
        """Rank 0's values of a Gluon ParameterDict to all ranks."""
        if self.size > 1:
            self._hvd.broadcast_parameters(parameters, root_rank=0)

    def trainer(self, parameters, **optimizer):
        """A Gluon trainer (SGD) whose gradients are averaged over the ranks."""
        return self._hvd.DistributedTrainer(parameters, "sgd", optimizer)

    def mean(self, values: np.ndarray, name: str) -> np.ndarray:
        """The mean over ranks of a small float array."""
        if self.size == 1:
            return np.asarray(values, np.float64)
        import mxnet as mx
        array = mx.nd.array(np.atleast_1d(values), dtype="float64")
        return self._hvd.allreduce(array, average=True, name=name).asnumpy().reshape(np.shape(values))

    def average_in_place(self, arrays: List, name: str) -> None:
        """Replaces each of the NDArrays by its mean over the ranks."""
        if self.size == 1:
            return
        for index, array in enumerate(arrays):
            self._hvd.allreduce_(array, average=True, name=f"{name}.{index}")

    def all_from_first(self, values: np.ndarray, name: str) -> np.ndarray:
        """Rank 0's small float64 array, on every rank."""
        if self.size == 1:
            return np.asarray(values, np.float64)
        import mxnet as mx
        array = mx.nd.array(values, dtype="float64")
        return self._hvd.broadcast(array, root_rank=0, name=name).asnumpy()

    def from_first(self, value: float, name: str) -> float:
        """Rank 0's number, on every rank (float64)."""
        return float(self.all_from_first(np.array([value], np.float64), name)[0])

    def gather(self, rows: np.ndarray, name: str) -> np.ndarray:
        """All ranks' rows, (n, k) float64 each, one below the other in the order of the ranks; n may differ."""
        if self.size == 1:
            return rows
        import mxnet as mx
        # A rank without a row would have to send an array of size 0, which MXNet does not have.
        padded = np.concatenate([rows, np.full((1, rows.shape[1]), np.nan)])
        gathered = self._hvd.allgather(mx.nd.array(padded, dtype="float64"), name=name).asnumpy()
        return gathered[~np.isnan(gathered).all(axis=1)]

    def close(self) -> None:
        """Ends Horovod. Leaving without it crashes the other ranks."""
        import mxnet as mx
        mx.nd.waitall()
        self._hvd.shutdown()
