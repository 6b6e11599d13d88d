"""Mode allreduce: the network's gradients through Horovod, averaged as in a training step."""

from __future__ import annotations

import contextlib
import math

import numpy as np

from ssd.benchmark.machine import describe_machine
from ssd.benchmark.request import TRACE_STEPS, Request
from ssd.benchmark.timing import peak_memory, spread, times_of


def measure(request: Request) -> dict:
    """Measure on every rank; docs/benchmarking.md describes the result."""
    from ssd.training.ranks import Ranks

    with contextlib.closing(Ranks()) as ranks:
        return _measure(request, ranks)


def _measure(request: Request, ranks) -> dict:
    import mxnet as mx

    from ssd.benchmark.trace import traced
    from ssd.model.detector import build_detector
    from ssd.model.device import choose_device
    from ssd.model.initialization import initialize
    from ssd.model.parameters import trained

    config = request.config
    device = choose_device(config, ranks.local_rank)
    network = build_detector(config).network
    initialize(network, request.seed, device.context)
    parameters = network.collect_params()
    reduced = trained(network).values()
    size = sum(
        math.prod(parameter.shape) * np.dtype(parameter.dtype).itemsize for parameter in reduced
    )
    trainer = ranks.trainer(parameters, mx.optimizer.SGD(learning_rate=1e-6))
    steps, warmup = request.counts(20, 3)
    result = dict(
        recipe=config.recipe,
        device=device.kind,
        ranks=ranks.size,
        gradient_bytes=size,
        tensors=len(reduced),
        warmup=warmup,
        steps=steps,
        rank=ranks.rank,
    )
    if ranks.size == 1:
        return dict(
            result,
            note="one rank has nothing to reduce; start it under horovodrun or mpirun",
            memory=dict(peak_rss_bytes=peak_memory()),
            machine=describe_machine(),
        )

    def reduce() -> None:
        trainer.allreduce_grads()
        mx.nd.waitall()

    def one() -> float:
        # All ranks start together, so that none measures its wait for another one.
        ranks.mean(np.zeros(1), "start")
        return times_of(reduce, 1)[0]

    rows = np.array([one() for _ in range(warmup + steps)])[warmup:]
    with traced(request.trace) if request.trace and ranks.is_first else contextlib.nullcontext():
        for _ in range(TRACE_STEPS if request.trace else 0):
            reduce()
    seconds = ranks.gather(rows.reshape(1, -1), "seconds").max(0)
    sent = 2 * (ranks.size - 1) / ranks.size * size
    return dict(
        result,
        step_seconds=spread(seconds),
        bytes_per_second=spread(size / seconds),
        bus_bytes_per_second=spread(sent / seconds),
        memory=dict(
            peak_rss_bytes=int(ranks.gather(np.array([[peak_memory()]], float), "memory").max())
        ),
        machine=describe_machine(),
    )
