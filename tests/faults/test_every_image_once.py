"""Every validation image is evaluated and scored exactly once, for any number of ranks and any
batch size."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from tests.training.tiny import ROOT, horovodrun

WORKER = os.path.join(ROOT, "tests", "faults", "images_worker.py")


@pytest.mark.parametrize("images", [10, 2])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_image_is_scored_once(tmp_path, size, images):
    for index in range(images):
        Image.new("RGB", (40, 30), (10 * index,) * 3).save(tmp_path / f"{index}.png")
    path = tmp_path / "annotations.json"
    path.write_text(
        json.dumps(
            dict(
                images=[
                    dict(id=7 * index + 1, file_name=f"{index}.png", width=40, height=30)
                    for index in range(images)
                ],
                annotations=[
                    dict(id=1, image_id=8, category_id=1, area=1, iscrowd=0, bbox=[1, 1, 8, 8])
                ],
                categories=[dict(id=1, name="thing")],
            )
        )
    )
    result = subprocess.run(
        [*horovodrun(size), sys.executable, WORKER, str(path), str(tmp_path)],
        cwd=ROOT,
        text=True,
        env=dict(os.environ, PYTHONPATH=ROOT),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    for rank in range(size):
        assert f"rank {rank} of {size}: every image once" in result.stdout
