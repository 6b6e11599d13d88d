#!/usr/bin/env python3
"""Convert a network trained on ImageNet to a detector's backbone as ONNX: torchvision's .pth, in
either of PyTorch's file formats, or MindCV's .ckpt.

Neither PyTorch, MindSpore nor unpickling is involved: a hostile file is refused, not run.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ssd import ends

if __name__ == "__main__":
    ends.begin("pth_to_onnx.py")  # before anything that takes time

from ssd.errors import UserError
from ssd.model.backbones import published_backbone
from ssd.model.backbones.mobilenet_specs import SPECS as MOBILENETS
from ssd.model.backbones.onnx_graph import NAMES


def convert(source: str, target: str, backbone: str, pyramid: bool, force: bool) -> None:
    if os.path.exists(target) and not force:
        raise UserError(f"{target}: exists already; --force overwrites it")
    if pyramid and backbone in MOBILENETS:
        raise UserError(f"--pyramid: no feature pyramid works on {backbone}")
    published_backbone.convert_backbone(source, target, backbone, pyramid)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "input",
        metavar="INPUT",
        help="a state dict of torchvision's (.pth) or weights of MindCV's (.ckpt)",
    )
    parser.add_argument(
        "output", metavar="OUTPUT.onnx", help="the file to write, for --pretrained-backbone"
    )
    parser.add_argument(
        "--backbone",
        choices=sorted(NAMES),
        default="resnet34",
        help="which network it is (default: resnet34)",
    )
    parser.add_argument(
        "--pyramid",
        action="store_true",
        help="keep all stages of a ResNet, for feature pyramids and SSD (default: SSD's alone, but "
        "for resnext50_32x4d, which has all)",
    )
    parser.add_argument(
        "--force", action="store_true", help="overwrite OUTPUT.onnx (default: refuse)"
    )
    args = parser.parse_args()
    try:
        convert(args.input, args.output, args.backbone, args.pyramid, args.force)
    except UserError as error:
        print(f"pth_to_onnx.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    ends.run(main)
