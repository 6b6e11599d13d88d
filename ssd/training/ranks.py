"""Horovod: the ranks of a run and what they tell each other."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, wait
from typing import List, Optional

import numpy as np

from ssd.errors import UserError, UserErrorEverywhere
from ssd.runtime import start

# Set by mpirun (Open MPI, PMIx), horovodrun and srun, in the order in which they are believed.
RANK_VARIABLES = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")


def rank_from_environment() -> int:
    """This process's rank as the launcher says it, 0 without one; for what happens before Horovod
    is up."""
    for name in RANK_VARIABLES:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def _run(future: Future, work) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


class Agreement:
    """What single ranks wish, and all must do at the same step: flags that are told a step ahead,
    so that no step waits for them. A wish that is still there when it is told is told once more."""

    def __init__(self, ranks: Ranks, count: int):
        self._ranks, self._count = ranks, count
        self._under_way = None

    def exchange(self, wishes) -> List[bool]:
        """`wishes`: `count` flags of this rank. Returns for each whether any rank wished it at the
        last exchange (alone: at this one). Collective."""
        assert len(wishes) == self._count
        if self._ranks.size == 1:
            return [bool(wish) for wish in wishes]
        # Read before the next one is started: one exchange of a name at a time.
        told = (
            [False] * self._count
            if self._under_way is None
            else [bool(x) for x in self._under_way.asnumpy()]
        )
        self._under_way = self._ranks.start_mean(np.array(wishes, float), "wishes")
        return told

    def settle(self, wishes) -> List[bool]:
        """As `exchange`, but of these very wishes, which is waited for."""
        before = self.exchange(wishes)
        if self._ranks.size == 1:
            return before
        return [a or b for a, b in zip(before, self.exchange(wishes))]


class Ranks:
    """The ranks of this run; all methods but `close` are collective: every rank calls them in the
    same order.

    Every exchange has a fixed name, so that Horovod refuses mixed-up orders instead of mixing the
    numbers.
    """

    def __init__(self, stall_seconds: float = 600, waiting_steps: bool = False):
        """`stall_seconds`: Horovod is asked to end the run when some ranks have waited so long for
        others. A last resort, which was not seen to act with Gloo: ssd.watchdog.watchdog acts
        earlier, and names the rank. waiting_steps: a step waits for many exchanges, one after the
        other (BatchNorm over groups)."""
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
            # Horovod's thread compares notes with the other ranks so often [ms], whether there is
            # something to reduce or not. At its 1 ms that takes a tenth of a core and more from the
            # network (benchmarks/ranks.md).
            os.environ.setdefault("HOROVOD_CYCLE_TIME", "10")
        self._hvd = hvd
        hvd.init()
        self.rank, self.size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def broadcast_parameters(self, parameters) -> None:
        """Rank 0's values of a Gluon ParameterDict, initialised, to all ranks."""
        if self.size > 1:
            for name, parameter in parameters.items():
                self._broadcast(parameter.data(), name)

    def trainer(self, parameters, optimizer):
        """A Gluon trainer with an mx.optimizer.Optimizer, whose gradients are averaged over the
        ranks."""
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
        """The mean over ranks of a small float array as an NDArray that is read when it is
        needed."""
        import mxnet as mx

        return self._hvd.allreduce(mx.nd.array(values, dtype="float64"), average=True, name=name)

    def group_mean(self, array, ranks: int, name: str):
        """The mean of a small NDArray over the `ranks` ranks of this one's group, which nothing
        waits for. Groups are ranks 0 to ranks - 1 and so on: neighbours, on one node where
        launchers fill node by node.

        Collective over all ranks: each group sums in a row of its own, as Horovod has no groups
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
        """Replaces each of the NDArrays by rank 0's."""
        if self.size == 1:
            return
        for index, array in enumerate(arrays):
            self._broadcast(array, f"{name}.{index}")

    def array_from_first(self, values: Optional[np.ndarray], like, name: str):
        """Rank 0's values, with the type and on the device of the NDArray `like`; the other ranks
        give None."""
        import mxnet as mx

        # In an array of its own, since Horovod cannot send what oneDNN has put in a layout of its
        # own.
        array = mx.nd.array(
            np.zeros(like.shape) if values is None else values, ctx=like.context, dtype=like.dtype
        )
        self.broadcast_in_place([array], name)
        return array

    def _broadcast(self, array, name: str) -> None:
        """Makes the NDArray rank 0's: a sum to which the other ranks add nothing.

        Not Horovod's own broadcast, which crashes now and then with MXNet (docs/reliability.md).
        Nothing is -0.0 and not 0: only that leaves every number as it is, -0.0 too. It comes from
        NumPy: MXNet takes the scalar for 0.
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

    def first_then_others(self, work, name: str, look=lambda: None):
        """`work()` on rank 0, then on the others, and its result; no rank is left waiting in one
        long exchange.

        A UserError of one rank is raised on all, as UserErrorEverywhere. `look` is called now and
        then, on all ranks alike, in the main thread; the work runs in another one.
        """
        mine = None
        for turn in ("first", "others"):
            if self.is_first == (turn == "first"):
                mine = Future()
                threading.Thread(target=_run, args=(mine, work), name=name, daemon=True).start()
            while True:
                look()
                if mine is not None:
                    wait([mine], timeout=0.1)
                if (
                    self.mean(np.array([mine is None or mine.done()], float), f"{name} by {turn}")[
                        0
                    ]
                    == 1
                ):
                    break
            failure = mine.exception() if mine is not None else None
            if failure is not None and not isinstance(failure, UserError):
                raise failure
            told = "".join(
                self.gather_texts(
                    "" if failure is None else str(failure), f"{name} refused by {turn}"
                )
            )
            if told:
                raise UserErrorEverywhere(told)
        return mine.result()

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
        """Every rank's text, in the order of the ranks."""
        content = np.frombuffer(text.encode(), np.uint8).astype(np.float64)
        rows = np.stack([np.full(len(content), float(self.rank)), content], axis=1)
        rows = self.gather(rows, name)
        return [
            bytes(rows[rows[:, 0] == rank, 1].astype(np.uint8)).decode()
            for rank in range(self.size)
        ]

    def gather(self, rows: np.ndarray, name: str) -> np.ndarray:
        """All ranks' rows, (n, k) float64 each, one below the other in the order of the ranks; n
        may differ."""
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
