#!/usr/bin/env python3
"""Convert a network of torchvision's (.pth, either of PyTorch's file formats) to a detector's backbone as ONNX.

Neither PyTorch nor unpickling is involved: a hostile file is refused, not run.
"""
from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ssd.errors import UserError  # noqa: E402
from ssd.model.backbones.onnx_file import write_backbone  # noqa: E402
from ssd.model.backbones.resnet_specs import SPECS  # noqa: E402
from ssd.model.torch_file import read_state_dict  # noqa: E402


def convert(source: str, target: str, backbone: str, force: bool) -> None:
    if os.path.exists(target) and not force:
        raise UserError(f"{target}: exists already; --force overwrites it")
    write_backbone(read_state_dict(source), target, backbone, source, say=print)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input", metavar="INPUT.pth", help="a state dict of torchvision's")
    parser.add_argument("output", metavar="OUTPUT.onnx", help="the file to write, for --pretrained-backbone")
    parser.add_argument("--backbone", choices=sorted(SPECS), default="resnet34",
                        help="which network it is (default: resnet34)")
    parser.add_argument("--force", action="store_true", help="overwrite OUTPUT.onnx (default: refuse)")
    args = parser.parse_args()
    try:
        convert(args.input, args.output, args.backbone, args.force)
    except UserError as error:
        print(f"pth_to_onnx.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
