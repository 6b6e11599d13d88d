"""The ranks of a run and their communication, through Horovod."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, wait
from typing import List, Optional

import numpy as np

from ssd.errors import UserError, UserErrorEverywhere
from ssd.runtime import start

# Set by horovodrun, mpirun (Open MPI, PMIx) and srun; the first that is set counts.
RANK_VARIABLES = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")


def rank_from_environment() -> int:
    """This process's rank according to the launcher, 0 without one; for use before Horovod is
    initialised."""
    for name in RANK_VARIABLES:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def _run(future: Future, work) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


class SharedFlags:
    """Requests of single ranks on which all ranks must act at the same step: flags that are reduced
    over the ranks.

    The reduction runs during a step and its result is read after the next one, so that no step
    waits for it. A flag that is still set then is reported a second time.
    """

    def __init__(self, ranks: Ranks, count: int):
        self._ranks, self._count = ranks, count
        self._running = None  # the reduction that was started last

    def reduce(self, flags, wait: bool = False) -> List[bool]:
        """For each of `count` flags, whether it was set on any rank at the previous call (with one
        rank: at this call). wait: at the previous or this call. Collective."""
        assert len(flags) == self._count
        if self._ranks.size == 1:
            return [bool(flag) for flag in flags]
        before = self._start(flags)
        if not wait:
            return before
        return [a or b for a, b in zip(before, self._start(flags))]

    def _start(self, flags) -> List[bool]:
        """Starts a reduction; returns the result of the one before."""
        # Read first: only one reduction of a name may run at a time.
        result = (
            [False] * self._count
            if self._running is None
            else [bool(mean) for mean in self._running.asnumpy()]
        )
        self._running = self._ranks.start_mean(np.array(flags, float), "flags")
        return result


class Ranks:
    """The ranks of this run. All methods but `close` are collective: every rank calls them in the
    same order.

    Every collective has a fixed name, so that Horovod refuses a wrong order instead of mixing up
    numbers.
    """

    def __init__(self, stall_seconds: float = 600, waiting_steps: bool = False):
        """`stall_seconds`: Horovod ends the run when some ranks have waited so long for others. A
        last resort, which we never saw work with Gloo; ssd.watchdog.watchdog acts earlier, and
        names the rank. waiting_steps: a step waits for many collectives, one after the other
        (BatchNorm over groups)."""
        os.environ.setdefault(
            "HOROVOD_STALL_CHECK_TIME_SECONDS", str(max(1, int(stall_seconds / 2)))
        )
        os.environ.setdefault(
            "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", str(max(2, int(stall_seconds)))
        )
        start()
        import horovod.mxnet as hvd
        import mxnet as mx

        if not mx.context.num_gpus() and not waiting_steps:
            # The interval [ms] at which Horovod's thread polls the other ranks, whether there is
            # something to reduce or not. Its default of 1 ms takes a tenth of a core or more away
            # from the network (benchmarks/ranks.md).
            os.environ.setdefault("HOROVOD_CYCLE_TIME", "10")
        self._hvd = hvd
        hvd.init()
        self.rank, self.size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def broadcast_parameters(self, parameters) -> None:
        """Sets an initialised Gluon ParameterDict to rank 0's values on all ranks."""
        if self.size > 1:
            for name, parameter in parameters.items():
                self._broadcast(parameter.data(), name)

    def trainer(self, parameters, optimizer):
        """A Gluon trainer with an mx.optimizer.Optimizer that averages gradients over the ranks."""
        return self._hvd.DistributedTrainer(parameters, optimizer)

    def mean(self, values: np.ndarray, name: str) -> np.ndarray:
        """The mean over ranks of a small float array."""
        if self.size == 1:
            return np.asarray(values, np.float64)
        import mxnet as mx

        array = mx.nd.array(np.atleast_1d(values), dtype="float64")
        return (
            self._hvd.allreduce(array, average=True, name=name).asnumpy().reshape(np.shape(values))
        )

    def start_mean(self, values: np.ndarray, name: str):
        """The mean over ranks of a small float array, as an NDArray that can be read later."""
        import mxnet as mx

        return self._hvd.allreduce(mx.nd.array(values, dtype="float64"), average=True, name=name)

    def group_mean(self, array, ranks: int, name: str):
        """The mean of a small NDArray over this rank's group of `ranks` ranks; does not wait for
        it. Groups are ranks 0 to ranks - 1 and so on: neighbours, which share a node if the
        launcher fills node by node.

        Collective over all ranks: each group sums in a row of its own, since Horovod has no groups
        before 0.23.
        """
        groups, own = self.size // ranks, self.rank // ranks
        if groups == 1:
            return self._hvd.allreduce(array, average=True, name=name)
        import mxnet as mx

        rows = mx.nd.zeros((groups, *array.shape), ctx=array.context, dtype=array.dtype)
        rows[own] = array
        self._hvd.allreduce_(rows, average=False, name=name)
        return rows[own] / ranks

    def average_in_place(self, arrays: List, name: str) -> None:
        """Replaces each of the NDArrays by its mean over the ranks."""
        if self.size == 1:
            return
        for index, array in enumerate(arrays):
            self._hvd.allreduce_(array, average=True, name=f"{name}.{index}")

    def broadcast_in_place(self, arrays: List, name: str) -> None:
        """Sets each of the NDArrays to rank 0's values."""
        if self.size == 1:
            return
        for index, array in enumerate(arrays):
            self._broadcast(array, f"{name}.{index}")

    def array_from_first(self, values: Optional[np.ndarray], like, name: str):
        """Rank 0's values, with the type and device of the NDArray `like`; the other ranks pass
        None."""
        import mxnet as mx

        # A new array, since Horovod cannot send one that oneDNN keeps in its own layout.
        array = mx.nd.array(
            np.zeros(like.shape) if values is None else values, ctx=like.context, dtype=like.dtype
        )
        self.broadcast_in_place([array], name)
        return array

    def _broadcast(self, array, name: str) -> None:
        """Sets the NDArray to rank 0's values, as a sum to which the other ranks add -0.0.

        Not Horovod's own broadcast, which sometimes crashes with MXNet (docs/reliability.md). Only
        -0.0 leaves every number unchanged, even -0.0. It comes from NumPy, since MXNet turns the
        scalar into 0.
        """
        if not self.is_first:
            array[:] = np.full(array.shape, -0.0, array.dtype)
        self._hvd.allreduce_(array, average=False, name=name)

    def all_from_first(self, values: np.ndarray, name: str) -> np.ndarray:
        """Rank 0's small float64 array, on every rank."""
        if self.size == 1:
            return np.asarray(values, np.float64)
        import mxnet as mx

        array = mx.nd.array(values, dtype="float64")
        self._broadcast(array, name)
        return array.asnumpy()

    def from_first(self, value: float, name: str) -> float:
        """Rank 0's number, on every rank (float64)."""
        return float(self.all_from_first(np.array([value], np.float64), name)[0])

    def first_then_others(self, work, name: str, poll=lambda: None):
        """Runs `work()` on rank 0, then on the others, and returns its result; no rank waits in one
        long collective.

        A UserError of one rank is raised on all, as UserErrorEverywhere. `poll` is called every so
        often in the main thread, equally often on all ranks; the work runs in another thread.
        """
        future = None
        for turn in ("first", "others"):
            if self.is_first == (turn == "first"):
                future = Future()
                threading.Thread(target=_run, args=(future, work), name=name, daemon=True).start()
            while True:
                poll()
                if future is not None:
                    wait([future], timeout=0.1)
                done = np.array([future is None or future.done()], float)
                if self.mean(done, f"{name} by {turn}")[0] == 1:
                    break
            failure = future.exception() if future is not None else None
            if failure is not None and not isinstance(failure, UserError):
                raise failure
            refusals = "".join(
                self.gather_texts(
                    "" if failure is None else str(failure), f"{name} refused by {turn}"
                )
            )
            if refusals:
                raise UserErrorEverywhere(refusals)
        return future.result()

    def bytes_from_first(self, content: bytes, name: str) -> bytes:
        """Rank 0's bytes, on every rank."""
        if self.size == 1:
            return content
        import mxnet as mx

        length = int(self.from_first(len(content), f"{name} length"))
        array = np.zeros(length + 1, np.uint8)  # MXNet has no arrays of size 0
        if self.is_first:
            array[1:] = np.frombuffer(content, np.uint8)
        array = mx.nd.array(array, dtype="uint8")
        self._broadcast(array, name)
        return array.asnumpy()[1:].tobytes()

    def gather_texts(self, text: str, name: str) -> List[str]:
        """Every rank's text, in rank order."""
        content = np.frombuffer(text.encode(), np.uint8).astype(np.float64)
        rows = np.stack([np.full(len(content), float(self.rank)), content], axis=1)
        rows = self.gather(rows, name)
        return [
            bytes(rows[rows[:, 0] == rank, 1].astype(np.uint8)).decode()
            for rank in range(self.size)
        ]

    def gather(self, rows: np.ndarray, name: str) -> np.ndarray:
        """All ranks' rows, (n, k) float64 each, concatenated in rank order; n may differ."""
        if self.size == 1:
            return rows
        import mxnet as mx

        # One more row: MXNet has no arrays of size 0, which a rank without a row would have to
        # send.
        padded = np.concatenate([rows, np.full((1, rows.shape[1]), np.nan)])
        gathered = self._hvd.allgather(mx.nd.array(padded, dtype="float64"), name=name).asnumpy()
        return gathered[~np.isnan(gathered).all(axis=1)]

    def close(self) -> None:
        """Shuts Horovod down. A rank that exits without this crashes the other ranks."""
        import mxnet as mx

        mx.nd.waitall()
        self._hvd.shutdown()
