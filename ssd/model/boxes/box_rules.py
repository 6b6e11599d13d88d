"""How default boxes follow from a recipe: the rules by name."""

from __future__ import annotations

from ssd.model.boxes.anchors import anchor_sizes, shares_cxcywh
from ssd.model.boxes.default_boxes import default_boxes
from ssd.model.boxes.pyramid_anchors import pyramid_sizes
from ssd.model.boxes.ssd_sizes import ssd_sizes

# default_boxes.rule -> function that computes the sizes of a recipe, and function that turns them
# into default boxes, (N, 4) float32 cxcywh.
BOX_RULES = {
    "ssd": (ssd_sizes, default_boxes),
    "mobile": (ssd_sizes, default_boxes),
    "retinanet": (anchor_sizes, shares_cxcywh),
    "pyramid": (pyramid_sizes, default_boxes),
}


def sizes_of(config):
    """What follows from the size of the image: feature maps (`maps`, `grid`, `per_cell`), steps and
    sizes of default boxes (`steps`, `scales`, `span`, `shapes()`), and what only one rule has.
    UserError for settings that do not fit the image or each other, naming the setting."""
    return BOX_RULES[config.default_boxes.rule][0](config)
