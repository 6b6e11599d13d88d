"""The two sides of benchmarks/peer_pytorch.py compute the same, so that their times can be
compared."""

import pytest

pytest.importorskip("torch")

from benchmarks import ours, peer_pytorch

# Tiny networks: SSD; RetinaNet as the benchmark has it, frozen, and with trained BatchNorm as the
# quickstart's. In the last rounding flips ReLUs before BatchNorms of a few cells: PyTorch's own
# gradients in float32 and in float64 are .04 of their norm apart, which Adam makes more of.
MOBILE = dict(gradients=0.1, steps=0.1)
SIDES = {
    "ssd": ("ssd-resnet34-shapes", dict(width=0.125), ["channels_last"], {}),
    "retinanet": (
        "retinanet-resnext50-openimages",
        dict(width=0.125, image_size="128x96", num_classes=21),
        ["plain", "lean"],
        {},
    ),
    "retinanet, trained": (
        "retinanet-resnext50-shapes",
        dict(width=0.125, image_size=128),
        ["channels_last"],
        dict(gradients=0.2, steps=float("inf")),
    ),
    # Maps of 8 to 1 cells: gradients as above.
    "mobilenet": (
        "ssd-mobilenetv2-coco",
        dict(width=0.25, image_size=128, num_classes=21),
        ["plain"],
        MOBILE,
    ),
    "ssdlite": (
        "ssdlite-mobilenetv2-coco",
        dict(width=0.25, image_size=128, num_classes=21),
        ["channels_last"],
        MOBILE,
    ),
}


@pytest.fixture(scope="module", params=SIDES)
def sides(request):
    """Optimizer, tolerances, our outputs, and PyTorch's of each form, with equal weights."""
    name, values, forms, looser = SIDES[request.param]
    config = ours.recipe(name, batch_size=2, **values)
    detector, weights, boxes, batch = peer_pytorch.make_inputs(config, 2)
    mine = peer_pytorch.our_outputs(config, detector, batch)
    theirs = [peer_pytorch.Peer(config, weights, boxes, batch, form).outputs() for form in forms]
    return config.training.optimizer, {**peer_pytorch.TOLERANCES, **looser}, mine, theirs


def test_outputs_are_equal(sides):
    optimizer, tolerances, mine, forms = sides
    assert sum(len(rows) for name, rows in mine.items() if name.startswith("detections")) > 20
    for theirs in forms:
        worst = peer_pytorch.compare(mine, theirs, optimizer)
        assert set(worst) == set(tolerances)
        for kind, apart in worst.items():
            assert apart <= tolerances[kind], kind


def test_a_difference_is_found(sides):
    optimizer, tolerances, mine, (theirs, *_) = sides
    changed = dict(theirs, losses=theirs["losses"] * 1.01)
    assert peer_pytorch.compare(mine, changed, optimizer)["losses"] > tolerances["losses"]
