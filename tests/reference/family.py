"""Recipes of the SSD family's public references, tolerances, and how numbers are compared."""

import mxnet as mx
import numpy as np

from ssd.config import load_recipe

SSD_RESNET50 = load_recipe("ssd-resnet50-coco")
# mlcommons/abtf-ssd-pytorch at 2d8ee7d, config test_ext_fm: 480x640 with a seventh map, 15 classes.
COGNATA = SSD_RESNET50.with_values(
    image_size="480x640",
    num_classes=15,
    extra_strides=[2, 2, 2, 1, 1, 1],
    extra_pads=[1, 1, 1, 0, 0, 0],
    extra_channels=[[1024, 512], [512, 512], [512, 256], [256, 256], [256, 256], [256, 256]],
    steps=[8, 16, 32, 64, 80, 120, 240],
    scales=[21, 45, 99, 153, 207, 261, 315, 400],
    aspect_ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2], [2]],
)
RECIPES = {
    "ssdlite_mobilenetv2": "ssdlite-mobilenetv2-coco",
    "ssd_mobilenetv2": "ssd-mobilenetv2-coco",
    "ssd_mobilenetv3": "ssd-mobilenetv3-coco",
    "ssd_resnet50_fpn": "ssd-resnet50-fpn-coco",
}
# eval_loc and eval_conf of the largest; loss; its gradients; gradient norms; losses of training;
# norms of parameters, running means and variances after the four steps.
TOLERANCES = {
    "ssdlite_mobilenetv2": (1e-5, 1e-5, 8e-7, 2e-7, 4e-2, 5e-2, 4e-1, 3e-1, 1e-1),
    "ssd_mobilenetv2": (1e-5, 1e-5, 2e-6, 3e-7, 2e-1, 7e-3, 5e-1, 1e-1, 8e-2),
    "ssd_mobilenetv3": (4e-6, 5e-6, 2e-6, 3e-7, 3e-2, 3e-3, 2e-2, 8e-2, 3e-2),
    "ssd_resnet50_fpn": (5e-5, 4e-5, 2e-6, 2e-7, 2e-2, 5e-4, 2e-3, 2e-2, 6e-3),
}


def close(ours, theirs, relative):
    """Within `relative` of the largest magnitude."""
    assert np.abs(ours - theirs).max() <= relative * np.abs(theirs).max()


def dense(arrays, prefix, total, samples, empty=()):
    """Targets (B, total, 4) and (B, total) of stored matches."""
    ends = np.cumsum(arrays[prefix + "match_pos_count"])
    offsets = np.zeros((len(samples), total, 4), np.float32)
    classes = np.zeros((len(samples), total), np.float32)
    for row, sample in enumerate(samples):
        if sample not in empty:
            part = slice(ends[sample] - arrays[prefix + "match_pos_count"][sample], ends[sample])
            index = arrays[prefix + "match_pos_index"][part]
            offsets[row, index] = arrays[prefix + "match_pos_offsets"][part]
            classes[row, index] = arrays[prefix + "match_pos_label"][part]
    return mx.nd.array(offsets), mx.nd.array(classes)
