"""COCO 2017's 80 categories, in the order of its annotation files."""

from __future__ import annotations

_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra,
giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite,
baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork,
knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut,
cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush
"""
NAMES = tuple(name.strip() for name in _NAMES.replace("\n", " ").split(","))
_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # of 1 to 90: categories that have no boxes
IDS = tuple(number for number in range(1, 91) if number not in _GAPS)
