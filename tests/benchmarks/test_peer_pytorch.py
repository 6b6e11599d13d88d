"""The two sides of benchmarks/peer_pytorch.py compute the same, so that their times can be compared."""
import pytest

pytest.importorskip("torch")

from benchmarks import ours, peer_pytorch  # noqa: E402


@pytest.fixture(scope="module")
def sides():
    """Outputs of both, of a tiny network with equal weights."""
    config = ours.recipe("ssd-resnet34-shapes", width=0.125, batch_size=2)
    detector, weights, boxes, batch = peer_pytorch.make_inputs(config, 2)
    mine = peer_pytorch.our_outputs(config, detector, batch)
    return mine, peer_pytorch.Peer(config, weights, boxes, batch, "channels_last").outputs()


def test_outputs_are_equal(sides):
    mine, theirs = sides
    assert sum(len(rows) for name, rows in mine.items() if name.startswith("detections")) > 20
    worst = peer_pytorch.compare(mine, theirs)
    assert set(worst) == set(peer_pytorch.TOLERANCES)
    for kind, apart in worst.items():
        assert apart <= peer_pytorch.TOLERANCES[kind], kind


def test_a_difference_is_found(sides):
    mine, theirs = sides
    changed = dict(theirs, losses=theirs["losses"] * 1.01)
    assert peer_pytorch.compare(mine, changed)["losses"] > peer_pytorch.TOLERANCES["losses"]
