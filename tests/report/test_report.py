"""Reports of synthetic runs, through the command line; in a browser if one is installed."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ssd.__main__ import main
from ssd.config import load_recipe, to_yaml
from ssd.evaluation.detections import Detections
from ssd.evaluation.scoring import STAT_NAMES, score_detections
from ssd.report.evaluation_report import write_report
from ssd.report.run_report import last_detections
from tests.evaluation.odd_sets import near_rows
from tests.training.tiny import tiny_data

ANNOTATIONS = os.path.join("annotations", "bbox_only_instances_val2017.json")
NAME = '<b>&"circle'  # a class name that must not be read as HTML


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = Path(
        tiny_data(tmp_path_factory.mktemp("report") / "data", train_images=1, val_images=8)
    )
    content = json.loads((folder / ANNOTATIONS).read_text())
    content["categories"][0]["name"] = NAME
    (folder / ANNOTATIONS).write_text(json.dumps(content))
    return folder


def found(data):
    rows = near_rows(data / ANNOTATIONS, seed=1, per_image=12)
    return Detections(
        *([row[name] for row in rows] for name in ("image_id", "bbox", "score", "category_id"))
    )


def make_run(folder, data, evaluations=1):
    """A run's folder as written by train, as far as a report reads it."""
    folder.mkdir()
    config = load_recipe("ssd-resnet34-shapes").with_values(data_dir=str(data))
    (folder / "recipe.yaml").write_text(to_yaml(config))
    (folder / "train.csv").write_text(
        "epoch,step,images,seconds,class_loss,offset_loss,learning_rate,images_per_second,"
        "data_wait_share\n"
        "1,1,4,0.0,40,4,0.001,0,0\n1,2,8,1.0,30,3,0.002,8,0.01\n2,4,16,2.0,20,2,0.002,8,0.01\n"
    )
    (folder / "mlperf.log").write_text(
        ':::MLLOG {"namespace": "", "key": "train_samples", "value": 8}\n'
    )
    if evaluations:
        stats = score_detections(data / ANNOTATIONS, found(data))
        rows = [",".join(["epoch", *stats])] + [
            ",".join([str(epoch), *map(str, stats.values())]) for epoch in range(1, evaluations + 1)
        ]
        (folder / "evaluation.csv").write_text("\n".join(rows) + "\n")
        found(data).to_npz(folder / f"detections-epoch-{evaluations}.npz")
        (folder / "summary.json").write_text(
            json.dumps(
                dict(
                    status="success",
                    target=0.2,
                    best_map=stats["AP"],
                    seconds=125.0,
                    seconds_before=0.0,
                    steps=4,
                    images=16,
                    seed=77,
                    ranks=2,
                    skipped_steps=0,
                )
            )
        )
        (folder / "versions.json").write_text(
            json.dumps({"loaded": {"mxnet": "1.9.1"}, "python": "3.11", "gpus": []})
        )
    return folder


class Page(HTMLParser):
    """The content of a page: counts of tags, anchors, texts, and everything that it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.fetched, self.text = {}, [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "srcset", "href", "data", "action", "poster"):
                self.fetched.append(value)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def report(data, tmp_path_factory):
    """(path, text) of the report of a completed run."""
    folder = make_run(tmp_path_factory.mktemp("run") / "mine", data, evaluations=2)
    assert main(["report", str(folder)]) == 0
    return folder / "report.html", (folder / "report.html").read_text()


def test_report_contents(report, data):
    path, text = report
    page = Page(text)
    assert page.ids[:9] == [
        "summary",
        "curves",
        "numbers",
        "classes",
        "curves-pr",
        "confusion",
        "detections",
        "worst",
        "mlperf",
    ]
    assert (
        "2 min 5 s" in page.text
        and "reached" in page.text
        and "77" in page.text
        and "mxnet 1.9.1" in page.text
    )
    assert "not accepted" in page.text, "a log of one line is no submission"
    stats = score_detections(data / ANNOTATIONS, found(data), per_class=True)
    for name in STAT_NAMES:
        assert f"{name}{stats[name]:.3f}" in page.text.replace("–", "-1.000")
    assert f"{stats['AP/' + NAME]:.3f}" in page.text and NAME in page.text and '<b>&"' not in text
    assert page.tags["svg"] == 1 + 3 + 4, (
        "precision and recall, one for each class, confusion in four pieces"
    )
    assert page.tags["img"] >= 3 + 2 * 8 + 2, "curves, eight images in pairs, worst ones"
    assert path.stat().st_size < 5e6


def test_report_fetches_nothing(report):
    page = Page(report[1])
    assert len(page.fetched) > 20
    assert all(value.startswith(("data:", "#")) for value in page.fetched)
    assert all(value[1:] in page.ids for value in page.fetched if value.startswith("#"))
    rest = report[1].replace("http://www.w3.org/", "")
    assert (
        "http:" not in rest
        and "https:" not in rest
        and "url(" not in rest
        and "@import" not in rest
    )


def browse(page, profile, *flags):
    """The page as a browser sees it, as text; skips where there is none."""
    browser = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if browser is None:
        pytest.skip("no chromium")
    result = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}",
            *flags,
            "--dump-dom",
            page.as_uri(),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "</html>" in result.stdout, result.stderr[-2000:]
    return result.stdout


def test_in_a_browser(report, tmp_path):
    """Its charts are there, and its script has made the table's heads buttons."""
    page = Page(browse(report[0], tmp_path / "profile"))
    assert page.tags["svg"] == 8 and page.tags["polyline"] == 3 + 2 * 3
    assert page.tags["button"] == 6 and page.tags["rect"] > 8


def test_report_is_replaced_but_no_other_file(report, tmp_path, capsys):
    folder = report[0].parent
    assert main(["report", str(folder), "--output", str(tmp_path / "copy.html")]) == 0
    assert (tmp_path / "copy.html").read_text() == report[1]
    assert main(["report", str(folder), "--output", str(tmp_path / "copy.html")]) == 2
    assert "exists already" in capsys.readouterr().err
    mine = shutil.copytree(folder, tmp_path / "mine")
    assert main(["report", str(mine)]) == 0
    (mine / "report.html").write_text("my own")
    capsys.readouterr()
    assert main(["report", str(mine)]) == 2
    assert (mine / "report.html").read_text() == "my own" and capsys.readouterr().err.count(
        "\n"
    ) == 1
    assert sorted(path.suffix for path in mine.iterdir() if "partial" in path.name) == []


def test_data_set_deleted_or_moved(data, tmp_path, capsys):
    moved = shutil.copytree(data, tmp_path / "moved")
    folder = make_run(tmp_path / "run", moved)
    shutil.rmtree(moved / "val2017")
    assert main(["report", str(folder)]) == 0
    page = Page((folder / "report.html").read_text())
    assert "The image folder no longer exists" in page.text and page.tags["svg"] == 8
    shutil.rmtree(moved)
    assert main(["report", str(folder)]) == 0
    page = Page((folder / "report.html").read_text())
    assert "no such folder" in page.text and "numbers" in page.ids and "curves" in page.ids
    assert "svg" not in page.tags and "report without" in capsys.readouterr().out
    assert main(["report", str(folder), "--data-dir", str(data)]) == 0
    assert Page((folder / "report.html").read_text()).tags["svg"] == 8


def test_a_run_without_an_evaluation(data, tmp_path):
    folder = make_run(tmp_path / "run", data, evaluations=0)
    assert main(["report", str(folder)]) == 0
    page = Page((folder / "report.html").read_text())
    assert (
        "the run has no saved detections of an evaluation" in page.text
        and "unfinished" in page.text
    )
    assert "curves" in page.ids and "numbers" not in page.ids


def test_a_recipe_of_another_version(data, tmp_path, capsys):
    folder = make_run(tmp_path / "run", data)
    (folder / "recipe.yaml").write_text("recipe: old\nmodel: {detector: ssd}\n")
    assert main(["report", str(folder)]) == 0
    page = Page((folder / "report.html").read_text())
    assert (
        "is missing" in page.text
        and "numbers" in page.ids
        and "is missing" in capsys.readouterr().out
    )


def test_newest_detections_of_a_resumed_run(data, tmp_path):
    folder = make_run(tmp_path / "run", data, evaluations=2)
    assert last_detections(str(folder)) == str(folder / "detections-epoch-2.npz")
    again = folder / "detections-epoch-2-again-at-step-9.npz"
    shutil.copy(folder / "detections-epoch-2.npz", again)
    os.utime(folder / "detections-epoch-2.npz", (1, 1))
    assert last_detections(str(folder)) == str(again)
    for path in folder.glob("*.npz"):
        path.unlink()
    assert last_detections(str(folder)) is None


def test_no_detections_and_no_objects(data, tmp_path):
    nothing = Detections([], [], [], [])
    path = write_report(
        tmp_path / "a",
        annotations=data / ANNOTATIONS,
        detections=nothing,
        image_folder=data / "val2017",
        title="Nothing found",
    )
    page = Page(Path(path).read_text())
    assert "worst" in page.ids and page.tags["svg"] == 8
    content = json.loads((data / ANNOTATIONS).read_text())
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps(dict(content, annotations=[])))
    path = write_report(
        tmp_path / "b",
        annotations=empty,
        detections=nothing,
        image_folder=data / "val2017",
        title="Nothing there",
    )
    page = Page(Path(path).read_text())
    assert "–" in page.text and "worst" not in page.ids and page.tags["img"] == 2 * 8


def test_many_classes_and_odd_images(tmp_path):
    """A hundred classes; a grey image, one that is not there, one that is none: the page says
    so."""
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(0)
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(4)]
    cv2.imwrite(
        str(tmp_path / "0.png"), random.integers(0, 255, (900, 30), np.uint8).astype(np.uint8)
    )
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((1, 1, 3), np.uint8))
    (tmp_path / "2.png").write_bytes(b"nothing")
    boxes = [
        {
            "id": number + 1,
            "image_id": number % 4,
            "category_id": number,
            "iscrowd": int(number == 5),
            "bbox": [1, 1, 20, 30],
            "area": 600,
        }
        for number in range(100)
    ]
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps(
            {
                "images": images,
                "annotations": boxes,
                "categories": [{"id": number, "name": f"class {number}"} for number in range(100)],
            }
        )
    )
    rows = Detections(
        np.arange(100) % 4,
        np.tile([1, 1, 20, 30], (100, 1)),
        random.random(100),
        np.roll(np.arange(100), 3),
    )
    out = tmp_path / "out"
    written = Path(
        write_report(out, annotations=path, detections=rows, image_folder=tmp_path, title="Many")
    )
    page = Page(written.read_text())
    assert page.text.count("cannot be read") == 4 and "Most often confused" in page.text
    assert page.tags["svg"] == 1 + 99 + 4, "class 5 has a crowd region alone, and no curve"
    # 30 x 900 pixels stay in sight, and on a telephone nothing stands out at the side
    measure = tmp_path / "measure.html"
    measure.write_text(
        written.read_text().replace(
            "</body>",
            "<script>document.title = [document.body.scrollWidth - innerWidth, Math.max(..."
            "Array.from(document.images, one => one.height))]</script></body>",
        )
    )
    wide, high = re.search(
        "<title>(-?\\d+),(\\d+)<", browse(measure, tmp_path / "profile", "--window-size=375,800")
    ).groups()
    assert int(wide) <= 0 and int(high) <= 600


@pytest.mark.parametrize(
    "flags, words",
    [
        (["NO"], "NO: no such folder"),
        (["."], "not the folder of a run"),
        ([], "run_folder"),
        ([".", "--data-dir", "NO"], "--data-dir NO: no such folder"),
        ([".", "--outptu", "x"], "did you mean --output"),
    ],
)
def test_user_errors_are_one_line(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["report", *flags])
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert status == 2 and out == "" and err.count("\n") == 1 and words.lower() in err.lower()
