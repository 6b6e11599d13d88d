#!/usr/bin/env python3
"""Reduces a COCO annotation file to what box detection reads; see --help."""

from __future__ import annotations

from ssd import ends

if __name__ == "__main__":
    ends.begin("prepare-json.py")

from ssd.datasets.prepare_json import main

if __name__ == "__main__":
    ends.run(main)
