"""The bilinear of MindCV's pyramid at any size, against onnxruntime's: the asymmetric, TensorFlow
1's."""

import mxnet as mx
import numpy as np
import pytest

from ssd.model.features.pyramid_norm import enlarged

SIZES = [
    ((13, 9), (25, 17)),
    ((4, 4), (8, 8)),
    ((5, 7), (10, 13)),
    ((1, 2), (1, 4)),
    ((3, 5), (5, 10)),
]


def asymmetric(array, size):
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    node = helper.make_node(
        "Resize",
        ["x", "", "", "size"],
        ["y"],
        mode="linear",
        coordinate_transformation_mode="asymmetric",
    )
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(array.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("size", TensorProto.INT64, [4], [*array.shape[:2], *size])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": array})[0]


@pytest.mark.parametrize("size, finer", SIZES)
def test_any_size_in_both_layouts(size, finer):
    array = np.random.default_rng(0).standard_normal((2, 3, *size)).astype(np.float32)
    expected = asymmetric(array, finer)
    found = enlarged(mx.nd, mx.nd.array(array), "NCHW", size, finer).asnumpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    found = enlarged(mx.nd, mx.nd.array(array.transpose(0, 2, 3, 1)), "NHWC", size, finer).asnumpy()
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2), expected, atol=1e-5)


@pytest.mark.parametrize("size, finer", SIZES)
def test_the_gradient_is_the_transpose(size, finer):
    generator = np.random.default_rng(1)
    x, weight = generator.standard_normal((1, 1, *size)), generator.standard_normal((1, 1, *finer))
    units = np.eye(size[0] * size[1], dtype=np.float32).reshape(-1, 1, *size)
    matrix = asymmetric(units, finer).reshape(len(units), -1)
    x = mx.nd.array(x)
    x.attach_grad()
    with mx.autograd.record():
        total = (enlarged(mx.nd, x, "NCHW", size, finer) * mx.nd.array(weight)).sum()
    total.backward()
    np.testing.assert_allclose(x.grad.asnumpy().ravel(), matrix @ weight.ravel(), atol=1e-5)
