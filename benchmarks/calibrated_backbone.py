"""A backbone file for trials without ImageNet weights: random convolutions, and BatchNorm with the
statistics that some images have there.

    python benchmarks/calibrated_backbone.py RECIPE DATA_DIR OUT.onnx [flag=value ...]

A network whose BatchNorm is frozen needs such statistics: at the identity, 16 residual blocks let
activations grow a hundredfold. The features are normalised like a trained backbone's, and mean
nothing.
"""

from __future__ import annotations

import sys

from ssd.runtime import start

IMAGES = 4  # with gradients, which set the statistics; fits 16 GB at 800 pixels


def main(recipe: str, data_dir: str, out: str, *values: str) -> None:
    start()
    import mxnet as mx

    from ssd.config import load_recipe
    from ssd.data.pipeline import TrainingLoader
    from ssd.datasets.locate import load_dataset
    from ssd.model.backbones.onnx_file import write_backbone
    from ssd.model.detector import build_detector
    from ssd.model.initialization import initialize
    from ssd.model_sections import PYRAMIDS

    config = load_recipe(recipe).with_values(
        data_dir=data_dir,
        batch_size=IMAGES,
        batch_norm="trained",
        frozen_stages=0,
        batch_norm_momentum=0,
        **dict(value.split("=", 1) for value in values),
    )
    network = build_detector(config).network
    initialize(network, 0, mx.cpu())
    loader = TrainingLoader(config, load_dataset(config, "train"), None, seed=0)
    images = next(loader).images
    with mx.autograd.record():
        total = sum(part.mean() for part in network.backbone.maps(mx.nd, images))
    total.backward()  # MXNet sets running statistics here, not in the forward pass
    mx.nd.waitall()
    loader.close()
    tensors = {
        name: parameter.data().asnumpy()
        for name, parameter in network.backbone.torchvision_parameters().items()
    }
    if not all(tensor.any() for name, tensor in tensors.items() if name.endswith("running_mean")):
        sys.exit("calibrated_backbone.py: a BatchNorm still has its first statistics")
    write_backbone(tensors, out, config.model.backbone, pyramid=config.model.features in PYRAMIDS)
    print(f"{out}: statistics of {IMAGES} images of {config.model.image_size} pixels")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
