"""The tables of ssd.model.detector and the settings that choose from them."""

import pytest

from ssd import model_sections
from ssd.config import SETTINGS
from ssd.model import detector


@pytest.mark.parametrize(
    "setting, table",
    [
        ("backbone", "BACKBONES"),
        ("features", "FEATURES"),
        ("head", "HEADS"),
        ("rule", "BOX_RULES"),
        ("matching", "MATCHERS"),
        ("loss", "LOSSES"),
        ("detections", "DETECTIONS"),
    ],
)
def test_the_choices_of_a_setting_are_the_keys_of_its_table(setting, table):
    keys = tuple(getattr(detector, table))
    assert keys == getattr(model_sections, table) == SETTINGS[setting][1].metadata["choices"]
