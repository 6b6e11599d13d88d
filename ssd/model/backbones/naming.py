"""The names that torchvision and MindCV have for a backbone's tensors. This project uses
torchvision's names for ResNets, and names by structure (ssd.model.backbones.mobilenet_specs).

Read off torchvision 0.15 (models/mobilenetv2.py, mobilenetv3.py) and MindCV 0.3.0
(models/mobilenetv2.py, mobilenetv3.py, resnet.py; features.py for `flat`).
"""

from __future__ import annotations

from typing import Dict, Iterable, Iterator, Tuple

from ssd.model.backbones import mobilenet_specs, resnet_specs
from ssd.model.backbones.mobilenet_specs import MobileNetSpec

NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
STATISTIC = ".running_var"
# What a training run leaves in a MindSpore checkpoint besides the network.
STATE = {
    "global_step",
    "learning_rate",
    "momentum",
    "weight_decay",
    "epoch_num",
    "step_num",
    "scale_sense",
    "current_iterator_step",
    "last_overflow_iterator_step",
}
MOMENTS = "moments."  # of the optimizer, before a parameter's name


def torchvision_names(backbone: str) -> Dict[str, str]:
    """{our name: torchvision's} of the tensors whose names differ; the classifier's are the
    same."""
    if backbone in resnet_specs.SPECS:
        return {}
    spec = mobilenet_specs.SPECS[backbone]
    return _named(
        spec, _torchvision_v2(spec) if backbone == "mobilenet_v2" else _torchvision_v3(spec)
    )


def mindcv_names(backbone: str, gamma: bool = True, flat: bool = False) -> Dict[str, str]:
    """The same for MindCV. gamma: BatchNorm's vectors have MindSpore's names, else PyTorch's, as
    mindspore.mint has them. flat: as in a detector, which holds the layers of `features` directly.
    """
    if backbone in resnet_specs.SPECS:
        names = {
            name: name.replace("downsample", "down_sample").replace("fc.", "classifier.")
            for name in resnet_specs.classifier_shapes(backbone)
        }
    else:
        spec = mobilenet_specs.SPECS[backbone]
        names = _named(spec, _mindcv(spec))
    if flat:
        names = {
            ours: theirs.replace("features.", "features_", 1) for ours, theirs in names.items()
        }
    return with_gamma(names) if gamma else names


def with_gamma(names: Dict[str, str]) -> Dict[str, str]:
    """`names` ({ours: theirs}), with MindSpore's names for the vectors of each BatchNorm. A layer
    is a BatchNorm if its variance is among `names`."""
    norms = {name[: -len(STATISTIC)] for name in names if name.endswith(STATISTIC)}

    def spelled(ours: str, theirs: str) -> str:
        layer, _, part = theirs.rpartition(".")
        return f"{layer}.{NORM[part]}" if ours.rpartition(".")[0] in norms else theirs

    return {ours: spelled(ours, theirs) for ours, theirs in names.items()}


def has_gamma(names: Iterable[str]) -> bool:
    """Whether a file's BatchNorms have MindSpore's names."""
    return any(name.endswith(f".{NORM['running_var']}") for name in names)


def without_state(tensors: Dict, prefix: str = "") -> Dict:
    """A MindSpore checkpoint's tensors without the state of optimizer and training loop, and
    without `prefix` before the names of the others."""
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if name not in STATE and not name.startswith(MOMENTS)
    }
    while prefix and kept and all(name.startswith(prefix) for name in kept):
        kept = {name[len(prefix) :]: tensor for name, tensor in kept.items()}
    return kept


# Layers in order: (our name, theirs); theirs are two for a convolution with BatchNorm.
Layers = Iterator[Tuple[str, Tuple[str, ...]]]


def _torchvision_v2(spec: MobileNetSpec) -> Layers:
    yield "stem", ("features.0.0", "features.0.1")
    for block in spec.blocks:
        within, index = f"features.{block.number}.conv", 0
        for part in _parts(block)[:-1]:
            yield f"block{block.number}.{part}", (f"{within}.{index}.0", f"{within}.{index}.1")
            index += 1
        yield f"block{block.number}.project", (f"{within}.{index}", f"{within}.{index + 1}")
    yield "last", tuple(f"features.{len(spec.blocks) + 1}.{part}" for part in (0, 1))


def _torchvision_v3(spec: MobileNetSpec) -> Layers:
    yield "stem", ("features.0.0", "features.0.1")
    for block in spec.blocks:
        within = f"features.{block.number}.block"
        for index, part in enumerate(_parts(block)):
            ends = ("fc1", "fc2") if part == "se" else (0, 1)
            yield f"block{block.number}.{part}", tuple(f"{within}.{index}.{end}" for end in ends)
    yield "last", tuple(f"features.{len(spec.blocks) + 1}.{part}" for part in (0, 1))


def _mindcv(spec: MobileNetSpec) -> Layers:
    """Convolution, BatchNorm and activation are entries of one sequence each."""
    yield "stem", ("features.0", "features.1")
    for block in spec.blocks:
        within, index = f"features.{block.number + 2}.layers", 0
        for part in _parts(block):
            if part == "se":
                yield (
                    f"block{block.number}.se",
                    tuple(f"{within}.{index}.{end}" for end in ("conv_reduce", "conv_expand")),
                )
                index += 1
            else:
                yield f"block{block.number}.{part}", (f"{within}.{index}", f"{within}.{index + 1}")
                index += 3
    yield "last", (f"features.{len(spec.blocks) + 3}", f"features.{len(spec.blocks) + 4}")


def _parts(block) -> Tuple[str, ...]:
    return (
        (("expand",) if block.hidden != block.inputs else ())
        + ("depthwise",)
        + (("se",) if block.squeeze else ())
        + ("project",)
    )


def _named(spec: MobileNetSpec, layers: Layers) -> Dict[str, str]:
    """{our name: theirs} of tensors, from the names of layers."""
    layers, names = dict(layers), {}
    for name in mobilenet_specs.backbone_shapes(spec.name):
        layer, part = name.rsplit(".", 1)
        layer, _, kind = layer.rpartition(".")
        names[name] = f"{layers[layer][kind in ('bn', 'expand')]}.{part}"
    return names
