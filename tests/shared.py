"""Material beside the repository: real images and the numbers of public references. Tests without
it are skipped."""

import os

import pytest

SHARED = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "shared"
)


def shared_path(name):
    """Path of the file or folder `name` beside the repository; the test is skipped where it is not
    there."""
    path = os.path.join(SHARED, name)
    if not os.path.exists(path):
        pytest.skip(f"shared/{name} is not beside this repository")
    return path
