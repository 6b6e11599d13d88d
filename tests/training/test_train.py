"""Training by its command line, with a tiny network and a tiny data set."""

import json
import os
import shutil

import mxnet as mx
import numpy as np
import pytest

from ssd.config import load_recipe
from ssd.data.pipeline import TrainingLoader
from ssd.datasets.coco import load_coco
from ssd.evaluation.scoring import STAT_NAMES
from ssd.model import parameters
from ssd.model.detector import build_detector
from ssd.model.initialization import initialize
from ssd.model.weights import read_info
from tests.training.tiny import horovodrun, rows, ssd, tiny_data, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("shapes") / "set")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run of two epochs, with an evaluation after each, that does not reach the target."""
    folder = tmp_path_factory.mktemp("run") / "out"
    result = train(data, folder, "--epochs", "2", "--eval-every", "1")
    assert result.returncode == 0, result.stderr
    return folder, result


def events(folder):
    with open(folder / "mlperf.log") as file:
        return [json.loads(line.split(":::MLLOG ")[1]) for line in file]


def test_the_files_of_a_run(finished):
    folder, result = finished
    assert {
        "mlperf.log",
        "recipe.yaml",
        "versions.json",
        "summary.json",
        "train.csv",
        "evaluation.csv",
        "weights.params",
        "checkpoints",
        "detections-epoch-1.npz",
        "detections-epoch-2.npz",
        "validation.npz",
    } == set(os.listdir(folder))
    assert [row["step"] for row in rows(folder / "train.csv")] == ["1", "2", "3", "4"], (
        "11 images with a box in batches of 4, two epochs"
    )
    assert "target 0.23 not reached" in result.stdout
    assert len(rows(folder / "evaluation.csv")[0]) == 15, (
        "epoch, COCO's twelve numbers, images, objects"
    )


def test_order_of_the_log(finished):
    keys = [event["key"] for event in events(finished[0])]
    assert (
        keys.index("init_start")
        < keys.index("weights_initialization")
        < keys.index("init_stop")
        < keys.index("run_start")
        < keys.index("epoch_start")
    )
    assert keys.count("weights_initialization") == 119
    assert keys.count("eval_start") == keys.count("eval_accuracy") == keys.count("eval_stop") == 2
    last = events(finished[0])[-1]
    assert last["key"] == "run_stop" and last["metadata"]["status"] == "aborted"


@pytest.mark.parametrize("weights", ["weights.params", "checkpoints/step-00000004/parameters.npz"])
def test_evaluate_and_score_repeat_the_runs_last_score(finished, data, tmp_path, weights):
    folder, _ = finished
    row = rows(folder / "evaluation.csv")[-1]
    logged = {name: float(row[name]) for name in STAT_NAMES}
    saved = tmp_path / "detections.json"
    again = ssd(
        "evaluate",
        "--weights",
        folder / weights,
        "--data-dir",
        data,
        "--json",
        "--device",
        "cpu",
        "--save-detections",
        saved,
        "--cache-dir",
        tmp_path,
    )
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert {name: result[name] for name in logged} == pytest.approx(logged, abs=1e-6)
    assert (str(result["images"]), str(result["objects"])) == (row["images"], row["objects"])
    annotations = os.path.join(data, "annotations", "bbox_only_instances_val2017.json")
    for detections in (saved, folder / "detections-epoch-2.npz"):
        scored = ssd("score", "--annotations", annotations, "--detections", detections, "--json")
        assert json.loads(scored.stdout) == pytest.approx(logged, abs=1e-6)


@pytest.mark.parametrize("weights", ["weights.params", "checkpoints/step-00000004/parameters.npz"])
def test_weights_contain_their_network_and_classes(finished, weights):
    folder, _ = finished
    info, config = read_info(folder / weights), load_recipe(str(folder / "recipe.yaml"))
    assert info.category_names == ("circle", "square", "triangle") and info.category_ids == (
        3,
        7,
        11,
    )
    assert (info.config.model, info.config.default_boxes, info.config.detection) == (
        config.model,
        config.default_boxes,
        config.detection,
    )


def test_same_seed_same_run(finished, data, tmp_path):
    folder, _ = finished
    assert train(data, tmp_path / "again", "--epochs", "2", "--eval-every", "1").returncode == 0
    assert (
        train(
            data, tmp_path / "other", "--epochs", "2", "--eval-every", "1", "--seed", "4"
        ).returncode
        == 0
    )
    losses = [
        [(row["class_loss"], row["offset_loss"]) for row in rows(path / "train.csv")]
        for path in (folder, tmp_path / "again", tmp_path / "other")
    ]
    assert losses[0] == losses[1] != losses[2]
    weights = [mx.nd.load(str(path / "weights.params")) for path in (folder, tmp_path / "again")]
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value.asnumpy(), weights[1][name].asnumpy())


def test_stops_when_the_target_is_known(data, tmp_path):
    result = train(data, tmp_path / "out", "--epochs", "9", "--eval-every", "2", "--target", "0")
    assert result.returncode == 0, result.stderr
    found = events(tmp_path / "out")
    assert found[-1]["key"] == "run_stop" and found[-1]["metadata"]["status"] == "success"
    assert (
        max(event["metadata"]["epoch_num"] for event in found if event["key"] == "epoch_start") <= 4
    )
    assert "target 0.0 reached" in result.stdout


def test_weights_start_a_run(finished, data, tmp_path):
    result = train(
        data,
        tmp_path / "out",
        "--max-steps",
        "1",
        "--no-augment",
        "--weights",
        finished[0] / "weights.params",
    )
    assert result.returncode == 0, result.stderr
    first = rows(tmp_path / "out" / "train.csv")[0]
    before = rows(finished[0] / "train.csv")[0]
    loss = [float(row["class_loss"]) + float(row["offset_loss"]) for row in (before, first)]
    assert loss[1] < 0.8 * loss[0]


# ---- two ranks


def twin_data(folder):
    """Four images, each of them twice, and a seed with which both ranks get the same four in the
    first step."""
    source = tiny_data(folder / "source", train_images=8, val_images=2)
    path = os.path.join(source, "annotations", "bbox_only_instances_train2017.json")
    with open(path) as file:
        content = json.load(file)
    boxed = {row["image_id"] for row in content["annotations"]}
    originals = [image for image in content["images"] if image["id"] in boxed][:4]
    images, annotations = [], []
    for copy in range(2):
        for index, image in enumerate(originals):
            number = copy * 4 + index + 1
            name = f"twin{number}.jpg"
            shutil.copy(
                os.path.join(source, "train2017", image["file_name"]),
                os.path.join(source, "train2017", name),
            )
            images.append(dict(image, id=number, file_name=name))
            annotations += [
                dict(row, image_id=number, id=100 * number + row["id"])
                for row in content["annotations"]
                if row["image_id"] == image["id"]
            ]
    with open(path, "w") as file:
        json.dump(dict(content, images=images, annotations=annotations), file)
    dataset = load_coco(path, os.path.join(source, "train2017"))
    config = load_recipe("ssd-resnet34-shapes").with_values(batch_size=4, augment=False)

    def share(seed):
        return set(
            next(TrainingLoader(config, dataset, None, rank=0, size=2, seed=seed)).indices % 4
        )

    seed = next(seed for seed in range(1000) if len(share(seed)) == 4)
    return source, seed


def test_one_rank_and_two_ranks_take_the_same_first_step(tmp_path):
    """Batch 8 on one rank, batch 4 on two, with images that give the same BatchNorm statistics:
    equal losses, and equal weights after the step."""
    data, seed = twin_data(tmp_path)
    flags = [
        "--max-steps",
        "1",
        "--warmup-epochs",
        "0",
        "--no-augment",
        "--seed",
        seed,
        "--eval-batch-size",
        "2",
    ]
    one = train(data, tmp_path / "one", *flags, "--batch-size", "8")
    assert one.returncode == 0, one.stderr
    two = train(data, tmp_path / "two", *flags, "--batch-size", "4", prefix=horovodrun(2))
    assert two.returncode == 0, two.stdout + two.stderr
    losses = [
        [float(row[name]) for name in ("class_loss", "offset_loss")]
        for run in ("one", "two")
        for row in rows(tmp_path / run / "train.csv")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    start = build_detector(load_recipe(str(tmp_path / "one" / "recipe.yaml"))).network
    initialize(start, seed, mx.cpu())
    weights = [mx.nd.load(str(tmp_path / run / "weights.params")) for run in ("one", "two")]
    for name, parameter in parameters.by_structural_name(start).items():
        before = parameter.data().asnumpy()
        one_step, two_step = (value[name].asnumpy() - before for value in weights)
        # Rounding may flip a ReLU or the choice of a hard negative. A sum instead of a mean over
        # ranks, or a missing rank, would make a difference as large as the step itself.
        assert np.linalg.norm(two_step - one_step) <= 0.1 * np.linalg.norm(one_step), name
    assert two.stdout.count("run_stop") == 1, "only rank 0 writes the log"


def test_two_ranks_train_and_score_every_image_once(data, tmp_path):
    """Six validation images on two ranks in batches of 4: each is in the scored file exactly
    once."""
    result = train(
        data,
        tmp_path / "out",
        "--max-steps",
        "1",
        "--batch-size",
        "2",
        "--score-threshold",
        "0",
        "--boxes-per-image",
        "3",
        prefix=horovodrun(2),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    with np.load(tmp_path / "out" / "detections-epoch-1.npz", allow_pickle=False) as arrays:
        images, counts = np.unique(arrays["image_id"], return_counts=True)
    with open(os.path.join(data, "annotations", "bbox_only_instances_val2017.json")) as file:
        wanted = sorted(image["id"] for image in json.load(file)["images"])
    assert images.tolist() == wanted and set(counts) == {3}
