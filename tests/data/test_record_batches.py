"""Batches from records are those from files, bit for bit: any rank, any step, training and
evaluation, whole runs."""

import os

import numpy as np
import pytest

from ssd.__main__ import main
from ssd.data.pipeline import EvaluationLoader, TrainingLoader
from ssd.errors import UserError
from tests.data.small_sets import MATCHER, assert_same, settings, stream
from tests.datasets.packed import PATHS, SHARD_SIZE, load, odd_set, pack, record_offset
from tests.training.tiny import rows, tiny_data, train


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(files, records)."""
    folder = tmp_path_factory.mktemp("odd")
    data = odd_set(folder / "set")
    assert pack(data, folder / "records", "--shard-size", SHARD_SIZE) == 0
    return data, str(folder / "records")


@pytest.fixture(scope="module")
def sets(folders):
    return [load(folder) for folder in folders]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("first_step", [0, 4])
def test_training_batches_are_the_same(sets, size, first_step):
    for rank in range(size):
        files, kept = (
            stream(
                dataset,
                7,
                batch_size=6 // size,
                rank=rank,
                size=size,
                seed=7,
                first_step=first_step,
            )
            for dataset in sets
        )
        assert_same(kept, files)


@pytest.mark.parametrize("values", [dict(augment=False), dict(data_threads=4), dict(prefetch=1)])
def test_no_setting_makes_a_difference(sets, values):
    assert_same(*[stream(dataset, 5, values=values) for dataset in sets])


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("split", ["train", "val"])
def test_evaluation_batches_are_the_same(folders, split, size):
    config = settings(eval_batch_size=4)
    for rank in range(size):
        loaders = [
            EvaluationLoader(config, load(folder, split), rank=rank, size=size)
            for folder in folders
        ]
        for _ in range(2):
            passes = [
                [(images.asnumpy(), indices) for images, indices in loader] for loader in loaders
            ]
            assert len(passes[0]) == len(passes[1]) == len(loaders[0])
            for (files, indices), (kept, others) in zip(*passes):
                np.testing.assert_array_equal(files, kept)
                np.testing.assert_array_equal(indices, others)
        for loader in loaders:
            loader.close()


@pytest.mark.parametrize("kind", [TrainingLoader, EvaluationLoader])
def test_a_record_that_was_changed_is_named(tmp_path, kind):
    data = odd_set(tmp_path / "set", train_images=6)
    assert pack(data, tmp_path / "records") == 0
    dataset = load(str(tmp_path / "records"))
    path = os.path.join(dataset.image_folder, "train-00000.rec")
    with open(path, "r+b") as file:
        file.seek(record_offset(dataset.image_folder, 1) + 150)
        file.write(b"?" * 8)
    loader = kind(
        settings(), load(str(tmp_path / "records")), *([MATCHER] if kind is TrainingLoader else [])
    )
    with pytest.raises(UserError, match="cannot be read: .*its CRC-32 differs") as caught:
        for _ in range(3):
            [_ for _, batch in zip(range(2), loader)]
    assert path in str(caught.value) and os.path.join(
        dataset.image_folder, dataset.file_names[1]
    ) in str(caught.value)


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    data = odd_set(tmp_path / "set", train_images=6)
    path = os.path.join(data, PATHS["train"][1], "1.png")
    with open(path, "r+b") as file:
        file.truncate(50)
    assert pack(data, tmp_path / "records") == 0
    for make in (
        lambda dataset: TrainingLoader(settings(batch_size=1), dataset, MATCHER),
        lambda dataset: EvaluationLoader(settings(), dataset),
    ):
        lines = []
        for folder in (data, str(tmp_path / "records")):
            with pytest.raises(UserError, match="1.png cannot be decoded: ") as caught:
                loader = make(load(folder))
                [_ for _, batch in zip(range(6), loader)]
            lines.append(str(caught.value).replace(folder, ""))
        assert lines[0] == lines[1]


def test_the_cache_of_decoded_images_needs_files(sets):
    with pytest.raises(
        UserError, match="decode: 'cache', with which DALI reads image files, and .* holds records"
    ):
        TrainingLoader(settings(decode="cache", cache_size=100), sets[1], None, device="gpu")


# ---- whole runs


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    data = tiny_data(folder / "set")
    assert (
        pack(data, folder / "records", "--recipe", "ssd-resnet34-shapes", "--shard-size", 1e-5) == 0
    )
    return data, str(folder / "records")


@pytest.fixture(scope="module")
def runs(shapes, tmp_path_factory):
    """Three steps from files; and one step from files, then two from records. Both are evaluated at
    the end."""
    output = tmp_path_factory.mktemp("runs")
    flags = [
        "--eval-every",
        "1",
        "--score-threshold",
        "0",
        "--boxes-per-image",
        "5",
        "--save-interval",
        "1steps",
    ]
    for data, name, steps, more in (
        (shapes[0], "files", 3, []),
        (shapes[0], "both", 1, []),
        (shapes[1], "both", 3, ["--resume", "auto"]),
    ):
        run = train(data, output / name, *flags, "--max-steps", str(steps), *more)
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-3000:]
    return output


def test_a_run_continues_with_records(runs):
    def result(name):
        with open(runs / name / "weights.params", "rb") as file:
            return (
                [
                    (row["step"], row["class_loss"], row["offset_loss"])
                    for row in rows(runs / name / "train.csv")
                ],
                rows(runs / name / "evaluation.csv")[-1]["AP"],
                file.read(),
            )

    assert [step for step, _, _ in result("files")[0]] == ["1", "2", "3"]
    assert result("files") == result("both")


def test_every_command_takes_them(shapes, runs, tmp_path, capsys):
    weights, cache, outputs = (
        runs / "both" / "weights.params",
        ["--cache-dir", str(tmp_path / "cache")],
        [],
    )
    for kind, data in zip(("files", "records"), shapes):
        annotations, images = (
            os.path.join(data, name)
            for name in ("annotations/bbox_only_instances_val2017.json", "val2017")
        )
        own = []
        for arguments in (
            ["check-data", "--recipe", "ssd-resnet34-shapes", "--data-dir", data, *cache],
            [
                "show-data",
                "--recipe",
                "ssd-resnet34-shapes",
                "--data-dir",
                data,
                "--count",
                "2",
                *cache,
                "--output",
                str(tmp_path / f"shown-{kind}"),
            ],
            [
                "summary",
                "--recipe",
                "ssd-resnet34-shapes",
                "--data-dir",
                data,
                "--image-size",
                "100",
            ],
            [
                "evaluate",
                "--weights",
                str(weights),
                "--data-dir",
                data,
                "--device",
                "cpu",
                *cache,
                "--report",
                str(tmp_path / f"report-{kind}"),
            ],
            [
                "evaluate",
                "--weights",
                str(weights),
                "--annotations",
                annotations,
                "--images",
                images,
                "--device",
                "cpu",
                *cache,
            ],
            [
                "predict",
                images,
                "--weights",
                str(weights),
                "--annotations",
                annotations,
                "--device",
                "cpu",
                "--output",
                str(tmp_path / f"predicted-{kind}"),
            ],
            [
                "report",
                str(runs / "both"),
                "--data-dir",
                data,
                "--output",
                str(tmp_path / f"again-{kind}.html"),
            ],
        ):
            assert main(arguments) == 0, capsys.readouterr().err
            own.append(capsys.readouterr().out.replace(data, "DATA").replace(f"-{kind}", ""))
        outputs.append(own)
    for files, kept in zip(*outputs):
        assert files == kept
    for names in (
        "shown-{}/training-images.png",
        "predicted-{}/detections.json",
        "report-{}/report.html",
        "again-{}.html",
    ):
        files, kept = [
            (tmp_path / names.format(kind)).read_bytes() for kind in ("files", "records")
        ]
        if names.endswith("html"):  # they name the data's folder
            assert files.count(b"data:image/jpeg") == kept.count(b"data:image/jpeg") > 2
        else:
            assert files == kept
