"""RetinaNet as a GPU trains it, channels last and in float16: shapes and types of the complete
graph by inference, and the values of the layers that differ from the CPU's."""

import mxnet as mx
import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.model.detector import build_detector
from ssd.model.features.pyramid import enlarged_by_nearest
from ssd.training.step import NetworkWithLoss

RECIPE = load_recipe("retinanet-resnext50-openimages")


@pytest.mark.parametrize(
    "layout, dtype", [("NCHW", "float32"), ("NHWC", "float32"), ("NHWC", "float16")]
)
def test_shapes_and_types_of_the_training_graph(layout, dtype):
    config = RECIPE.with_values(layout=layout, dtype=dtype)
    detector = build_detector(config)
    network = detector.network
    inputs = [mx.sym.var(name) for name in ("images", "offsets", "classes")]
    graph = mx.sym.Group(list(NetworkWithLoss(network, detector.loss)(*inputs)))
    types = dict(images=dtype, offsets="float32", classes="int32")
    shapes = dict(images=network.input_shape(2), offsets=(2, 120087, 4), classes=(2, 120087))
    _, losses, _ = graph.infer_shape(**shapes)
    assert losses == [(2,), (2,)]
    arguments, outputs, _ = graph.infer_type(
        **{name: np.dtype(kind).type for name, kind in types.items()}
    )
    assert set(outputs) == {np.float32}, "losses are float32 whatever the network's type"
    for name, kind in zip(graph.list_arguments(), arguments):
        if name not in types:
            norm = name.endswith(("_gamma", "_beta", "_running_mean", "_running_var"))
            assert kind == np.dtype("float32" if norm else dtype).type, name


@pytest.mark.parametrize("layout, dtype", [("NCHW", "float32"), ("NHWC", "float16")])
def test_shapes_and_types_of_the_detections(layout, dtype):
    detector = build_detector(RECIPE.with_values(layout=layout, dtype=dtype))
    rows = detector.detections(mx.sym.var("offsets"), mx.sym.var("logits"))
    shapes = dict(offsets=(2, 120087, 4), logits=(2, 120087, 264))
    assert rows.infer_shape(**shapes)[1] == [(2, 300, 6)]
    assert rows.infer_type(offsets=np.dtype(dtype).type, logits=np.dtype(dtype).type)[1] == [
        np.float32
    ]


def test_maps_are_enlarged_alike_in_both_layouts():
    """Channels last has no UpSampling of MXNet's."""
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 5)).astype(np.float32)
    for size in ((8, 10), (7, 10), (7, 9)):
        ours = enlarged_by_nearest(mx.nd, mx.nd.array(x), "NCHW", size).asnumpy()
        channels_last = mx.nd.array(x.transpose(0, 2, 3, 1))
        theirs = enlarged_by_nearest(mx.nd, channels_last, "NHWC", size).asnumpy()
        np.testing.assert_array_equal(theirs.transpose(0, 3, 1, 2), ours)
        rows, columns = (np.arange(cells) // 2 for cells in size)
        np.testing.assert_array_equal(ours, x[:, :, rows][:, :, :, columns])
