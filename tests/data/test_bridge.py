"""DALI batches in MXNet arrays: same values, shapes and types; safe with MXNet's asynchronous
engine."""

import mxnet as mx
import numpy as np
import pytest
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from ssd.data.bridge import (
    batch_dtype,
    batch_shape,
    new_array,
    samples_to_numpy,
    to_mxnet,
    to_numpy,
)

BATCH, SHAPE = 3, (4, 5)


def content(run):
    """What sample `s` of run `run` holds: (BATCH, *SHAPE), small whole numbers."""
    return (np.arange(BATCH * 20).reshape((BATCH,) + SHAPE) + 100 * run).astype(np.float32)


@pytest.fixture
def pipeline():
    pipeline = Pipeline(batch_size=BATCH, num_threads=1, device_id=None, seed=1)
    with pipeline:
        floats = fn.external_source(source=lambda run: list(content(run)))
        ragged = fn.external_source(
            source=lambda run: [np.full((sample, 4), run, np.float32) for sample in range(BATCH)]
        )
        pipeline.set_outputs(
            floats,
            fn.cast(floats, dtype=types.DALIDataType.FLOAT16),
            fn.cast(floats, dtype=types.DALIDataType.INT32),
            ragged,
        )
    pipeline.build()
    return pipeline


def test_values_shapes_and_types(pipeline):
    for run in range(3):
        outputs = pipeline.run()
        for output, dtype in zip(outputs, (np.float32, np.float16, np.int32)):
            array = to_mxnet(output)
            assert batch_shape(output) == array.shape == (BATCH,) + SHAPE
            assert batch_dtype(output) == array.dtype == dtype and array.context == mx.cpu()
            np.testing.assert_array_equal(array.asnumpy(), content(run).astype(dtype))
            np.testing.assert_array_equal(to_numpy(output), content(run).astype(dtype))
        assert [sample.shape for sample in samples_to_numpy(outputs[3])] == [(0, 4), (1, 4), (2, 4)]
        assert all((sample == run).all() for sample in samples_to_numpy(outputs[3]))


def test_arrays_outlive_the_next_runs(pipeline):
    kept = [
        (to_mxnet(outputs[0]), to_numpy(outputs[0]))
        for outputs in (pipeline.run() for _ in range(6))
    ]
    for run, (array, copy) in enumerate(kept):
        np.testing.assert_array_equal(array.asnumpy(), content(run))
        np.testing.assert_array_equal(copy, content(run))


def test_the_array_is_not_written_while_the_engine_reads_it(pipeline):
    array, results = to_mxnet(pipeline.run()[0]), []
    big = mx.nd.ones((700, 700))
    for run in range(1, 8):
        # The reader of `array` waits for a chain of products, so it is still queued when DALI's
        # turn comes.
        chain = big
        for _ in range(6):
            chain = mx.nd.dot(chain, big) / 700
        results.append(array + 0 * chain[0, 0])
        assert to_mxnet(pipeline.run()[0], out=array) is array
    for run, result in enumerate(results):
        np.testing.assert_array_equal(result.asnumpy(), content(run))
    np.testing.assert_array_equal(array.asnumpy(), content(7))


@pytest.mark.parametrize(
    "shape, dtype",
    [
        ((BATCH, 4, 6), "float32"),
        ((BATCH, 5, 4), "float32"),
        ((BATCH,) + SHAPE, "float16"),
        ((BATCH,) + SHAPE, "int32"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(pipeline, shape, dtype):
    with pytest.raises(AssertionError, match="does not fit"):
        to_mxnet(pipeline.run()[0], out=mx.nd.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_a_new_array_is_its_memory(dtype):
    array, memory = new_array((3, 5, 2), dtype)
    memory[:] = np.arange(30).reshape(3, 5, 2)
    assert memory.dtype == array.dtype == dtype and array.context == mx.cpu()
    np.testing.assert_array_equal((array + 1).asnumpy(), np.arange(1, 31).reshape(3, 5, 2))


def test_a_ragged_batch_is_refused(pipeline):
    with pytest.raises(AssertionError, match="differ in shape"):
        to_mxnet(pipeline.run()[3])
