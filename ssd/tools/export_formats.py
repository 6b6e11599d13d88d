"""Writes a network with its post-processing as ONNX and Gluon files, and runs these files.

Both take normalised images, float32 (B, 3, H, W) for any B, and return ids (B, K, 1), scores (B, K,
1) and boxes (B, K, 4), best score first, like Gluon's detectors: ids from 0, boxes ltrb in pixels
of the network's input, -1 throughout in rows without a detection.
"""

from __future__ import annotations

import json
import warnings
from typing import Dict, List

import numpy as np
from mxnet.gluon import HybridBlock

from ssd.config import Config

OUTPUTS = ("ids", "scores", "boxes")


class GluonDetector(HybridBlock):
    """Network and post-processing as one block, to be exported."""

    def __init__(self, network: HybridBlock, detections: HybridBlock, image_size, **kwargs):
        super().__init__(**kwargs)
        self.network, self.detections = network, detections
        self.height, self.width = image_size

    def hybrid_forward(self, F, images):
        rows = self.detections(*self.network(images))
        label, score = (F.slice_axis(rows, axis=2, begin=at, end=at + 1) for at in (0, 1))
        boxes = F.slice_axis(rows, axis=2, begin=2, end=6)
        if self.height == self.width:
            boxes = boxes * self.height
        else:
            boxes = F.concat(
                *[
                    F.slice_axis(boxes, axis=2, begin=at, end=at + 1) * side
                    for at, side in enumerate((self.width, self.height) * 2)
                ],
                dim=2,
            )
        found = F.broadcast_greater(score, F.zeros_like(score))
        everywhere = F.broadcast_like(found, boxes)
        return (
            F.where(found, label - 1, -F.ones_like(label)),
            F.where(found, score, -F.ones_like(score)),
            F.where(everywhere, boxes, -F.ones_like(boxes)),
        )


def description(config: Config, category_ids, category_names, boxes: int) -> Dict:
    """What a user of the files needs to know, as plain values."""
    (height, width), detection = config.model.image_size, config.detection
    return dict(
        input=dict(
            name="images",
            shape=["batch", 3, height, width],
            type="float32",
            preparation="RGB, resized to this size without keeping the aspect ratio (bilinear, "
            f"{'antialiased' if config.data.antialias else 'not antialiased'}), divided by 255, "
            "minus mean, divided by std",
        ),
        outputs=dict(
            ids="class from 0, -1: no detection",
            scores="0 to 1, best first",
            boxes=f"left, top, right, bottom in pixels of the {width} x {height} input",
        ),
        image_size=config.model.image_size.plain,
        mean=list(config.data.pixel_mean),
        std=list(config.data.pixel_std),
        class_names=list(category_names),
        category_ids=[int(number) for number in category_ids],
        score_threshold=detection.score_threshold,
        nms_iou=detection.nms_iou,
        **{
            name: value
            for name in ("boxes_per_class", "candidates_per_map")
            for value in (getattr(detection, name),)
            if value is not None
        },
        boxes_per_image=detection.boxes_per_image,
        default_boxes=boxes,
        recipe=config.recipe,
    )


def write_description(stem: str, values: Dict) -> None:
    # A lone surrogate in a class name is not UTF-8: it is escaped, and JSON readers restore it.
    with open(stem + ".json", "w", encoding="utf-8", errors="backslashreplace") as file:
        json.dump(values, file, indent=1, ensure_ascii=False)
        file.write("\n")


def write_onnx(
    stem: str, network, default_boxes_cxcywh: np.ndarray, config: Config, values: Dict
) -> None:
    """Write STEM.onnx; the description's values become metadata, lists as JSON."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from ssd.tools.export_detections import add_detections
    from ssd.tools.export_onnx import IR_VERSION, OPSET, GraphBuilder, add_network

    builder = GraphBuilder()
    results = add_detections(
        builder, *add_network(builder, network, "images"), default_boxes_cxcywh, config
    )
    height, width = config.model.image_size
    for result, name in zip(results, OUTPUTS):
        builder.nodes.append(helper.make_node("Identity", [result], [name], name=f"output_{name}"))
    graph = helper.make_graph(
        builder.nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, height, width])],
        [
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT, ["batch", "detections", 4 if name == "boxes" else 1]
            )
            for name in OUTPUTS
        ],
        [numpy_helper.from_array(array, name) for name, array in builder.constants.items()],
    )
    model = helper.make_model(
        graph, producer_name="ssd-benchmark", opset_imports=[helper.make_opsetid("", OPSET)]
    )
    model.ir_version = IR_VERSION
    texts = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in values.items()
    }
    helper.set_model_props(
        model,
        {key: text.encode("utf-8", "backslashreplace").decode() for key, text in texts.items()},
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, stem + ".onnx")


def run_onnx(stem: str, images: np.ndarray) -> List[np.ndarray]:
    """Run STEM.onnx by onnxruntime on the CPU; returns its three outputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(stem + ".onnx", providers=["CPUExecutionProvider"])
    return session.run(list(OUTPUTS), {"images": images})


def write_gluon(stem: str, network, detections, config: Config) -> None:
    """Write STEM-symbol.json and STEM-0000.params."""
    import mxnet as mx

    block = GluonDetector(network, detections, config.model.image_size)
    block.hybridize()
    block(mx.nd.zeros(network.input_shape(1)))  # Gluon makes the graph in the first forward pass
    block.export(stem, epoch=0)


def run_gluon(stem: str, images: np.ndarray) -> List[np.ndarray]:
    """Run STEM-symbol.json with its parameters; returns its three outputs."""
    import mxnet as mx

    with warnings.catch_warnings():  # that the type of `data` is not known yet
        warnings.simplefilter("ignore")
        block = mx.gluon.SymbolBlock.imports(
            stem + "-symbol.json", ["data"], stem + "-0000.params", ctx=mx.cpu()
        )
    return [output.asnumpy() for output in block(mx.nd.array(images))]
