"""DALI's outputs as MXNet arrays, for every version of DALI, with one copy.

Only versions up to 1.39 of DALI have an MXNet plugin; all versions have `copy_to_external`, which
writes a batch to an address. A TensorList of the CPU takes just the address. One of the GPU takes
(address, cuda_stream=None, non_blocking=False, use_copy_kernel=False) in DALI 1.5, 1.53 and 2.x
alike; all but the address keep their defaults here, so one call serves both devices.

A batch is copied since DALI reuses its buffers for the next but one batch, while MXNet's engine may
read an array long after the call that used it returned.
"""

from __future__ import annotations

import ctypes
from typing import Callable, List, Optional, Tuple

import mxnet as mx
import numpy as np


def is_on_gpu(batch) -> bool:
    """Whether a DALI TensorList is in GPU memory."""
    return "GPU" in type(batch).__name__


def batch_shape(batch) -> Tuple[int, ...]:
    """(samples, *shape of a sample) of a DALI TensorList; AssertionError if the samples differ."""
    assert batch.is_dense_tensor(), "the samples of the batch differ in shape"
    # In DALI 1.5 a TensorList has no shape(), but its tensors do.
    return (len(batch),) + tuple(int(side) for side in batch[0].shape())


def batch_dtype(batch) -> np.dtype:
    """NumPy type of a DALI TensorList's elements."""
    from nvidia.dali import types

    dtype = batch[0].dtype
    if isinstance(dtype, types.DALIDataType):
        return np.dtype(types.to_numpy_type(dtype))
    return np.dtype(dtype())  # in DALI 1.5, dtype is a method that returns a format string


def new_array(shape: Tuple[int, ...], dtype) -> Tuple[mx.nd.NDArray, np.ndarray]:
    """A new NDArray in main memory, and its memory, to be filled before the array is used."""
    array = mx.nd.empty(shape, ctx=mx.cpu(), dtype=dtype)
    dtype = np.dtype(dtype)
    size = dtype.itemsize * int(np.prod(shape))
    memory = (ctypes.c_uint8 * size).from_address(_address(array).value)
    return array, np.frombuffer(memory, dtype).reshape(shape)


def filled(shape: Tuple[int, ...], dtype, fill: Callable[[np.ndarray], None]) -> mx.nd.NDArray:
    """A new NDArray in main memory whose content `fill(memory)` writes completely."""
    array, memory = new_array(shape, dtype)
    fill(memory)
    return array


def _address(array: mx.nd.NDArray) -> ctypes.c_void_p:
    address = ctypes.c_void_p()
    mx.base.check_call(mx.base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(address)))
    return address


def to_mxnet(batch, device_id: int = 0, out: Optional[mx.nd.NDArray] = None) -> mx.nd.NDArray:
    """A dense DALI TensorList as an NDArray of the same shape (samples, ...) and type, on the same
    device.

    A batch in GPU memory goes to `mx.gpu(device_id)` and never leaves the GPU. `out` is an array to
    write to; it must have the batch's shape, type and device (AssertionError otherwise), and may
    still be in use: the call waits.
    """
    shape, dtype = batch_shape(batch), batch_dtype(batch)
    context = mx.gpu(device_id) if is_on_gpu(batch) else mx.cpu()
    if out is None:
        out = mx.nd.empty(shape, ctx=context, dtype=dtype)
    assert out.shape == shape and np.dtype(out.dtype) == dtype and out.context == context, (
        f"{shape} {dtype} on {context} does not fit {out.shape} {np.dtype(out.dtype)} on "
        f"{out.context}"
    )
    # MXNet runs operators on its own threads, in an order that follows from the reads and writes it
    # knows of. It does not know of this write, so this call waits for every operator queued so far
    # that reads or writes `out`. Operators queued after this function has returned see the new
    # content, as the copy is complete by then: on a CPU it is a memcpy; on a GPU DALI enqueues it
    # on its own stream, after the kernels that made the batch, and with non_blocking=False, the
    # default, waits for that stream. The wait costs almost nothing for a new array.
    mx.base.check_call(mx.base._LIB.MXNDArrayWaitToWrite(out.handle))
    batch.copy_to_external(_address(out))
    return out


def to_numpy(batch) -> np.ndarray:
    """A copy of a dense DALI TensorList as an array (samples, ...) in main memory."""
    return np.array((batch.as_cpu() if is_on_gpu(batch) else batch).as_array())


def sample_views(batch) -> List[np.ndarray]:
    """The samples of a DALI TensorList in main memory as views of DALI's memory, valid until the
    pipeline's next `run`."""
    return [np.asarray(batch[sample]) for sample in range(len(batch))]


def samples_to_numpy(batch) -> list:
    """A ragged DALI TensorList as a list with one array per sample, in main memory."""
    batch = batch.as_cpu() if is_on_gpu(batch) else batch
    return [np.array(batch[sample]) for sample in range(len(batch))]
