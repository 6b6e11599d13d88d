"""Runs on each of the ranks of test_ranks.py; ends with status 0 and a line if all checks pass."""

import os

import mxnet as mx
import numpy as np

from ssd.errors import UserError, UserErrorEverywhere
from ssd.training.ranks import Ranks, SharedFlags, rank_from_environment


def refuse():
    raise UserError("no such thing")


os.environ.pop("HOROVOD_CYCLE_TIME", None)
ranks = Ranks()
assert mx.context.num_gpus() or os.environ["HOROVOD_CYCLE_TIME"] == "10", (
    "Horovod must leave the cores to the network"
)
rank, size = ranks.rank, ranks.size
assert rank_from_environment() == rank and ranks.is_first == (rank == 0)
# Nothing here may use Horovod's broadcast: see Ranks._broadcast.
ranks._hvd.broadcast = ranks._hvd.broadcast_ = ranks._hvd.broadcast_parameters = None

everyone = np.arange(size)
assert np.array_equal(
    ranks.mean(np.array([rank, 10.0 * rank]), "mean"), [everyone.mean(), 10 * everyone.mean()]
)
# 2^53 - 1, which float32 would round.
assert ranks.from_first(2.0**53 - 1 if rank == 0 else -1, "number") == 2.0**53 - 1
assert np.array_equal(
    ranks.all_from_first(np.array([rank, np.nan]), "array"), [0, np.nan], equal_nan=True
)

# Broadcasts are exact to the bit: signed zeros and the smallest and largest numbers too.
for dtype in (np.float16, np.float32, np.float64):
    info = np.finfo(dtype)
    values = np.array(
        [-0.0, 0.0, info.tiny, info.tiny / 4, -info.max, np.inf, -np.inf, 1 / 3], dtype
    )
    array = mx.nd.array(values if rank == 0 else np.full_like(values, rank), dtype=dtype)
    ranks.broadcast_in_place([array], f"bits of {dtype.__name__}")
    assert array.asnumpy().tobytes() == values.tobytes(), (dtype, values, array)

# Rank r has r rows, rank 0 none.
rows = np.array([[100.0 * rank + row, 1 / 3] for row in range(rank)]).reshape(-1, 2)
wanted = [[100.0 * other + row, 1 / 3] for other in range(size) for row in range(other)]
for turn in range(2):
    assert ranks.gather(rows, "rows").tolist() == wanted

arrays = [mx.nd.full((3,), rank), mx.nd.full((2, 2), 2 * rank)]
ranks.average_in_place(arrays, "statistics")
assert (arrays[0].asnumpy() == everyone.mean()).all() and (
    arrays[1].asnumpy() == 2 * everyone.mean()
).all()

network = mx.gluon.nn.Dense(2, in_units=3)
network.initialize(mx.init.Constant(rank + 1))
ranks.broadcast_parameters(network.collect_params())
assert (network.weight.data().asnumpy() == 1).all()

# Rank r's gradient of each weight is r + 1, its batch 2: the update is the mean over ranks and
# batch.
trainer = ranks.trainer(network.collect_params(), mx.optimizer.SGD(learning_rate=1.0, momentum=0.9))
with mx.autograd.record():
    loss = network(mx.nd.full((2, 3), rank + 1))
loss.backward()
trainer.step(2)
np.testing.assert_allclose(network.weight.data().asnumpy(), 1 - (everyone + 1).mean(), rtol=1e-6)

# All ranks get the last rank's flag a step later (one rank: at once), and no flag that is not set.
flags = SharedFlags(ranks, 2)
found = [flags.reduce([step == 1 and rank == size - 1, False]) for step in range(4)]
assert [stop for stop, _ in found] == (
    [False, True, False, False] if size == 1 else [False, False, True, False]
)
assert not any(save for _, save in found)
assert flags.reduce([False, rank == size - 1], wait=True) == [False, True]
assert flags.reduce([False, False], wait=True)[0] is False

# Rank 0 does the work first; a refusal on one rank is raised on all.
order = ranks.first_then_others(lambda: rank, "work")
assert order == rank
try:
    ranks.first_then_others(lambda: refuse() if rank == size - 1 else None, "refused")
    raise AssertionError("not refused")
except UserErrorEverywhere as error:
    assert str(error) == "no such thing"
assert ranks.bytes_from_first(b"\x00abc" if rank == 0 else b"", "bytes") == b"\x00abc"
assert ranks.gather_texts("\u00fc" * rank, "texts") == ["\u00fc" * other for other in everyone]

print(f"rank {rank} of {size}: all checks passed", flush=True)
ranks.close()
