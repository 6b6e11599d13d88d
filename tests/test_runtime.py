"""The start of a process that runs the network."""

import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Horovod makes MXNet's libjpeg visible to all libraries that are loaded later.
JPEG = """
import io, os, sys
if sys.argv[1] == "ours":
    from ssd.runtime import start
    assert "numpy" not in sys.modules and "mxnet" not in sys.modules
    print(start(), start(), os.environ["OMP_NUM_THREADS"])
import horovod.mxnet
import cv2
import numpy as np
from PIL import Image
image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
content = cv2.imencode(".jpg", image)[1]
assert cv2.imdecode(content, cv2.IMREAD_COLOR).shape == image.shape
Image.open(io.BytesIO(content.tobytes())).load()
"""


def run(code, *arguments, **variables):
    environment = dict(os.environ, **variables)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_images_can_be_read_beside_horovod():
    done = run(JPEG, "ours", OMP_NUM_THREADS="3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "3", "3"]
    assert "broken data stream" in run(JPEG, "plain").stderr, "the order no longer matters"


ENTRY = """
import sys
if sys.argv[1] == "detector":
    from ssd import Detector
    try:
        Detector.load(sys.argv[2])
    except ValueError:
        pass
else:
    from ssd.training.ranks import Ranks
    Ranks().close()
watched = ("PIL._imaging", "nvidia.dali.pipeline", "mxnet", "horovod.mxnet")
order = [name for name in sys.modules if name in watched]
print(*order)
"""


@pytest.mark.slow
def test_all_entry_points_load_in_this_order(tmp_path):
    (tmp_path / "weights.params").write_bytes(b"no weights")
    for entry, last in (("detector", []), ("ranks", ["horovod.mxnet"])):
        done = run(ENTRY, entry, str(tmp_path / "weights.params"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["PIL._imaging", "nvidia.dali.pipeline", "mxnet", *last]


COMMAND_LINE = """
import os, sys

import pytest
from ssd import __main__
__main__.use_all_cores = lambda: print("numpy" in sys.modules)
__main__.main(sys.argv[1:])
"""


def test_the_command_line_sets_the_threads_before_numpy_is_loaded():
    assert run(COMMAND_LINE, "train", "--no-such-flag").stdout == "False\n"
    assert run(COMMAND_LINE, "plan", "--no-such-flag").stdout == "", "no network, no threads"
