"""BatchNorm over groups of ranks: real ranks compared with one batch, the command line, and
NVIDIA's operator as far as we can test it without having it."""

import ctypes
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from ssd.config import builtin_recipes, load_recipe
from ssd.errors import UserError
from ssd.model.batch_norm import BatchNorm, batch_norms
from ssd.model.detector import build_detector
from ssd.model.layers import FrozenBatchNorm
from ssd.model.parameters import all_blocks
from ssd.training import nvidia_batch_norm, recovery
from ssd.training.norm_groups import join_groups
from ssd.training.setup import check_groups
from tests.training.tiny import FLAGS, ROOT, horovodrun, ssd, tiny_data

WORKER = os.path.join(ROOT, "tests", "training", "norm_groups_worker.py")


@pytest.mark.parametrize("size, group", [(2, 2), (4, 2)])
def test_a_group_equals_one_rank_with_its_batch(size, group):
    """Losses, gradients, running statistics and weights over three steps; four ranks form two
    groups."""
    result = subprocess.run(
        [*horovodrun(size), sys.executable, WORKER, str(group)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        env=dict(os.environ, PYTHONPATH=ROOT),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for rank in range(size):
        assert f"rank {rank} of {size}: all checks passed" in result.stdout


def test_a_run_on_two_ranks_and_its_resume(tmp_path):
    """From the flag to the log and the checkpoint, with an evaluation between steps."""
    data = tiny_data(tmp_path / "set")

    def train(*flags):
        return ssd(
            "train",
            *FLAGS,
            "--batch-size",
            "2",
            "--data-dir",
            data,
            "--cache-dir",
            tmp_path / "cache",
            "--output",
            tmp_path / "run",
            "--save-interval",
            "1steps",
            *flags,
            prefix=horovodrun(2),
        )

    result = train(
        "--epochs", "2", "--eval-every", "1", "--max-steps", "3", "--batch-norm-ranks", "2"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(
        r"BatchNorm over groups of 2 ranks, 4 images: \d+ exchanges a step through Horovod "
        r"\(MXNet 1\.\S+ has no operator for it\)",
        result.stdout,
    )
    with open(tmp_path / "run" / "mlperf.log") as file:
        events = [json.loads(line.split(":::MLLOG ")[1]) for line in file]
    assert [event["value"] for event in events if event["key"] == "model_bn_span"] == [4]
    assert [event["value"] for event in events if event["key"] == "global_batch_size"] == [4]
    assert load_recipe(str(tmp_path / "run" / "recipe.yaml")).training.batch_norm_ranks == 2
    with np.load(tmp_path / "run" / "checkpoints" / "step-00000003" / "ranks.npz") as file:
        statistics = file[next(name for name in file.files if "statistic" in name)]
    assert (statistics[0] == statistics[1]).all(), "one group, one batch"

    result = train(
        "--epochs",
        "2",
        "--eval-every",
        "1",
        "--max-steps",
        "4",
        "--resume",
        "auto",
        "--batch-norm-ranks",
        "2",
    )
    assert result.returncode == 0 and "resumed after step 3" in result.stdout, (
        result.stdout + result.stderr
    )


def test_groups_that_ranks_do_not_make_are_refused_at_once(tmp_path):
    data = tiny_data(tmp_path / "set", train_images=4, val_images=1)
    result = ssd(
        "train", *FLAGS, "--data-dir", data, "--output", tmp_path / "run", "--batch-norm-ranks", "2"
    )
    assert result.returncode == 2 and not (tmp_path / "run").exists()
    assert result.stderr.splitlines()[-1] == (
        "python -m ssd train: error: --batch-norm-ranks 2: 1 rank cannot be divided into groups "
        "of 2"
    )
    with pytest.raises(
        UserError, match="--batch-norm-ranks 4: 6 ranks cannot be divided into groups of 4"
    ):
        check_groups(load_recipe("ssd-resnet34-coco").with_values(batch_norm_ranks=4), 6)


def test_frozen_networks_are_refused_by_name():
    recipe = load_recipe("retinanet-resnext50-coco")
    with pytest.raises(
        UserError,
        match="batch_norm_ranks: 2, but model.batch_norm is frozen, which does not use it",
    ):
        recipe.with_values(batch_norm_ranks=2)
    config = load_recipe("ssd-resnet34-coco").with_values(
        width=0.125, frozen_stages=4, batch_norm_ranks=2
    )
    with pytest.raises(
        UserError, match="--batch-norm-ranks 2: no BatchNorm of the network is trained"
    ):
        join_groups(build_detector(config).network, config, SimpleNamespace(size=2))


def test_checkpoints_older_than_the_setting_had_no_groups():
    config = load_recipe("ssd-resnet34-coco")
    saved = {"training": {"batch_size": 32}}
    assert "training.batch_norm_ranks" not in "".join(
        recovery.changes(recovery.completed(saved), config)
    )
    found = recovery.changes(recovery.completed(saved), config.with_values(batch_norm_ranks=2))
    assert "training.batch_norm_ranks: 1 in the checkpoint, 2 now" in found


@pytest.mark.parametrize("recipe", builtin_recipes())
def test_every_trained_batch_norm_can_join(recipe):
    config = load_recipe(recipe)
    network = build_detector(
        config.with_values(width=0.125, num_classes=config.model.num_classes or 4)
    ).network
    norms = [block for block in all_blocks(network) if isinstance(block, nn.BatchNorm)]
    assert norms and all(isinstance(norm, (BatchNorm, FrozenBatchNorm)) for norm in norms)
    assert len(batch_norms(network)) == sum(norm.gamma.grad_req != "null" for norm in norms)


# ---- NVIDIA's operator


class Ranks:
    """Rank 1 on the second node of four ranks."""

    rank, local_rank, size = 5, 1, 8

    def gather(self, rows, name):
        if name == "nodes":
            return np.array([[rank // 4 * 4, rank % 4] for rank in range(8)], float)
        return np.stack(
            [np.full(64, 10.0 * rank) if rank != self.rank else rows[0] for rank in range(8)]
        )

    def mean(self, values, name):
        return values


class Library:
    """Records its calls."""

    def __init__(self):
        self.calls = []

    def MXInitXBufSingle(self, rank, depth, pointers, handle):
        ctypes.memset(handle, 50, 64)
        pointers[rank] = 1234
        self.calls.append((rank, depth, len(pointers)))
        return 0

    def MXOpenIpcHandles(self, rank, ranks, depth, pointers, handles):
        self.calls.append((rank, ranks, depth, ctypes.string_at(handles, 64 * ranks)))
        return 0


@pytest.fixture
def library(monkeypatch):
    made = Library()
    monkeypatch.setattr(mx.base, "_LIB", made)
    return made


def test_its_buffers_belong_to_the_ranks_of_the_node(library):
    ranks, norm = Ranks(), BatchNorm(in_channels=4)
    node = nvidia_batch_norm.local_ranks(ranks, 2)
    assert node.tolist() == [4, 5, 6, 7]
    nvidia_batch_norm.use(norm, ranks, 2, node, "batch norm 0")
    handles = b"".join(bytes([value]) * 64 for value in (40, 50, 60, 70))
    assert library.calls == [(1, 1, 4), (1, 4, 1, handles)]
    asked = {}
    norm._in_group(SimpleNamespace(BatchNorm=lambda *tensors, **values: asked.update(values)))
    assert asked["bn_group"] == 2 and asked["axis"] == 1
    assert ctypes.cast(asked["xbuf_ptr"], ctypes.POINTER(ctypes.c_void_p))[1] == 1234


def test_it_is_not_used_if_a_group_would_span_nodes():
    assert nvidia_batch_norm.local_ranks(Ranks(), 8) is None


def test_it_is_used_if_it_exists_and_supports_the_settings(library, monkeypatch):
    config = load_recipe("ssd-resnet34-coco").with_values(layout="NHWC", dtype="float16")

    def unsupported(device="gpu", size=8, **values):
        return nvidia_batch_norm.unsupported(config.with_values(**values), device, size)

    assert "has no operator" in unsupported(), "stock MXNet's operator knows no bn_group"
    monkeypatch.setattr(mx.nd, "BatchNorm", lambda data, bn_group=1, xbuf_ptr=0: None)
    assert unsupported() == ""
    assert unsupported(batch_norm_exchange="horovod") == "as set by --batch-norm-exchange"
    assert (
        "GPUs" in unsupported(device="cpu")
        and "float16" in unsupported(dtype="float32")
        and "NHWC" in unsupported(layout="NCHW")
    )
    assert "groups of 2, 4, 8" in unsupported(size=3)


def test_it_is_not_used_if_its_numbers_differ(monkeypatch):
    """The trial compares it with Horovod's numbers, here those of a single rank's batch."""
    config = load_recipe("ssd-resnet34-coco").with_values(
        layout="NHWC", dtype="float16", batch_norm_ranks=2
    )
    norm = BatchNorm(in_channels=4)
    norm.initialize()
    used = []
    monkeypatch.setattr(nvidia_batch_norm, "unsupported", lambda *_: "")
    monkeypatch.setattr(
        nvidia_batch_norm, "use", lambda norm, *_: used.append(norm)
    )  # a plain BatchNorm

    def shifted(norm, ranks, size, name):
        norm.synchronise(lambda array, exchange: array * 1.5, name)

    assert (
        nvidia_batch_norm.join([norm], config, Ranks(), 2, shifted)
        == "MXNet's own operator gave other numbers"
    )
    assert norm not in used

    def same(norm, ranks, size, name):
        norm.synchronise(lambda array, exchange: array, name)

    assert nvidia_batch_norm.join([norm], config, Ranks(), 2, same) == "" and norm in used
