"""A convolution, its BatchNorm and its activation: what MobileNets and the detectors on them are
made of."""

from __future__ import annotations

from typing import Dict, Optional, Tuple

from mxnet import autograd
from mxnet.gluon import HybridBlock
from mxnet.gluon.parameter import Parameter

from ssd.config import ModelConfig
from ssd.model.batch_norm import BatchNorm
from ssd.model.layers import channel_axis, convolution


def _relu6(F, x):
    """ReLU6. In training, oneDNN's ReLU comes first: with it a step was 1.29 times as fast
    (benchmarks/mobilenet.md; MXNet's clip branches at each element). In inference it is the clip
    alone, which oneDNN fuses into its convolutions."""
    # A graph is built when it first runs; the one for training, while gradients are recorded.
    return F.clip(F.Activation(x, act_type="relu") if autograd.is_training() else x, 0, 6)


ACTIVATIONS = {
    "relu": lambda F, x: F.Activation(x, act_type="relu"),
    "relu6": _relu6,
    "hard_swish": lambda F, x: x * F.hard_sigmoid(x, alpha=1 / 6, beta=0.5),
}


class ConvNorm(HybridBlock):
    """Convolution, BatchNorm, activation. `size`: (height, width) of its output [cells].

    depthwise: each channel by itself. bias: of the convolution. same: padded as TensorFlow pads,
    the smaller half first (`size`, that of the input, is needed), else by half the kernel on each
    side. own: BatchNorm with the epsilon and momentum of the detector's own parts, not the
    backbone's. activation: of ACTIVATIONS, None for none.
    """

    def __init__(
        self,
        config: ModelConfig,
        in_channels: int,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        depthwise: bool = False,
        bias: bool = False,
        same: bool = False,
        own: bool = False,
        size: Optional[Tuple[int, int]] = None,
        activation: Optional[str] = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.layout, self._activation = config.layout, activation
        pad, self._extra = kernel // 2, (0, 0)
        self.size = size and tuple(-(-side // stride) for side in size)
        if same and stride > 1:
            pads = [same_padding(side, kernel, stride) for side in size]
            # MXNet takes one number for both ends: what is missing at the far end is padded apart.
            pad = tuple(before for before, _ in pads)
            self._extra = tuple(after - before for before, after in pads)
        with self.name_scope():
            self.conv = convolution(
                config,
                in_channels,
                channels,
                kernel,
                stride=stride,
                pad=pad,
                bias=bias,
                groups=channels if depthwise else 1,
            )
            self.bn = (
                own_batch_norm(config, channels)
                if own
                else BatchNorm(
                    axis=channel_axis(config),
                    momentum=config.batch_norm_momentum,
                    epsilon=config.batch_norm_epsilon,
                    in_channels=channels,
                )
            )

    def hybrid_forward(self, F, x):
        x = self.bn(self.conv(pad_end(F, x, self._extra, self.layout)))
        return x if self._activation is None else ACTIVATIONS[self._activation](F, x)


def own_batch_norm(config: ModelConfig, channels: int, **kwargs) -> BatchNorm:
    """A BatchNorm of the detector's own parts."""
    return BatchNorm(
        axis=channel_axis(config),
        momentum=config.own_norm_momentum,
        epsilon=config.own_norm_epsilon,
        in_channels=channels,
        **kwargs,
    )


def same_padding(side: int, kernel: int, stride: int) -> Tuple[int, int]:
    """TensorFlow's "same" padding of a side: (before, after), the smaller half first."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def pad_end(F, x, extra: Tuple[int, int], layout: str):
    """Zeros behind the last rows and columns."""
    if not any(extra):
        return x
    if layout == "NCHW":
        return F.pad(
            x, mode="constant", pad_width=(0, 0, 0, 0, 0, extra[0], 0, extra[1]), constant_value=0
        )
    for axis, count in zip((1, 2), extra):  # MXNet's operator cannot pad these
        if count:
            x = F.concat(x, F.zeros_like(F.slice_axis(x, axis=axis, begin=0, end=count)), dim=axis)
    return x


def norm_parameters(name: str, block: ConvNorm) -> Dict[str, Parameter]:
    """Parameters of a ConvNorm called `name`, under PyTorch's names."""
    found = {f"{name}.conv.weight": block.conv.weight}
    if block.conv.bias is not None:
        found[f"{name}.conv.bias"] = block.conv.bias
    found.update(
        {
            f"{name}.bn.weight": block.bn.gamma,
            f"{name}.bn.bias": block.bn.beta,
            f"{name}.bn.running_mean": block.bn.running_mean,
            f"{name}.bn.running_var": block.bn.running_var,
        }
    )
    return found
