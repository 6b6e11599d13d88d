"""Layers whose memory layout is a setting."""

from __future__ import annotations

from typing import Optional

from mxnet.gluon import nn

from ssd.config import ModelConfig
from ssd.model.batch_norm import BatchNorm


def channel_axis(config: ModelConfig) -> int:
    return config.layout.index("C")


def scaled(channels: int, config: ModelConfig) -> int:
    """`channels` of the full network times the recipe's width, rounded to a multiple of 8.

    oneDNN's and the tensor cores' fast convolutions take channels in blocks of 8.
    """
    return channels if config.width == 1 else max(8, round(channels * config.width / 8) * 8)


def input_channels(config: ModelConfig) -> int:
    """3, or 4 where tensor cores want the first convolution's input padded (NHWC in float16)."""
    return 4 if config.layout == "NHWC" and config.dtype == "float16" else 3


class PaddedConv2D(nn.Conv2D):
    """A convolution with bias whose output channels are padded to a multiple of 8. The parameters
    have `channels` only; the output has all, and those beyond `channels` are 0.

    oneDNN has fast kernels for multiples of 8 only: 510 channels run at half the speed of 512.
    """

    def hybrid_forward(self, F, x, weight, bias):
        extra = -self._channels % 8
        if extra:

            def padded(array):
                return F.concat(
                    array, F.zeros_like(F.slice_axis(array, axis=0, begin=0, end=extra)), dim=0
                )

            weight, bias = padded(weight), padded(bias)
        return F.Convolution(
            x, weight, bias, name="fwd", **dict(self._kwargs, num_filter=self._channels + extra)
        )


def convolution(
    config: ModelConfig,
    in_channels: int,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    pad: int = 0,
    bias: bool = False,
    groups: int = 1,
    prefix: Optional[str] = None,
    kind: type = nn.Conv2D,
) -> nn.Conv2D:
    """A square convolution. Weight: OIHW with NCHW, OHWI with NHWC; I is in_channels / groups."""
    return kind(
        channels,
        kernel,
        strides=stride,
        padding=pad,
        groups=groups,
        use_bias=bias,
        in_channels=in_channels,
        layout=config.layout,
        prefix=prefix,
    )


class FrozenBatchNorm(nn.BatchNorm):
    """A BatchNorm that is not trained: it returns the scale and shift that its four vectors
    give."""

    def __init__(self, **kwargs):
        super().__init__(use_global_stats=True, **kwargs)
        self.collect_params().setattr("grad_req", "null")

    def hybrid_forward(self, F, x, gamma, beta, running_mean, running_var):
        """Anything to scale and shift, (channels,) each: y = scale x + shift."""
        scale = F.BlockGrad(gamma * F.rsqrt(running_var + self._kwargs["eps"]))
        return scale, F.BlockGrad(beta - running_mean * scale)


class ScaledConv2D(nn.Conv2D):
    """A convolution without bias whose output channels are scaled and shifted. That costs one
    product with its weights, where a separate layer would read and write every map, twice in
    training. (On AVX-512, oneDNN's BatchNorm also takes fifty times as long behind a convolution
    whose groups have fewer than 16 channels.)"""

    def hybrid_forward(self, F, x, scale, shift, weight):
        scale, shift = (F.cast(part, dtype=self.weight.dtype) for part in (scale, shift))
        weight = F.broadcast_mul(weight, F.reshape(scale, (-1, 1, 1, 1)))
        return F.Convolution(x, weight, shift, name="fwd", **dict(self._kwargs, no_bias=False))


def convolution_and_norm(
    config: ModelConfig, *shape: int, frozen: bool = False, prefixes=(None, None), **kwargs
):
    """A convolution without bias and the BatchNorm behind it, for `normalised`. shape, kwargs: of
    `convolution`. frozen, as all are where model.batch_norm is frozen: the norm uses its running
    statistics in training too, and is not trained."""
    frozen = frozen or config.batch_norm == "frozen"
    return (
        convolution(
            config, *shape, prefix=prefixes[0], kind=ScaledConv2D if frozen else nn.Conv2D, **kwargs
        ),
        batch_norm(config, shape[1], frozen, prefix=prefixes[1]),
    )


def normalised(convolved: nn.Conv2D, norm: nn.BatchNorm, x):
    """The output of both layers of `convolution_and_norm`."""
    return convolved(x, *norm(x)) if isinstance(norm, FrozenBatchNorm) else norm(convolved(x))


def batch_norm(
    config: ModelConfig, channels: int, frozen: bool = False, prefix: Optional[str] = None
) -> nn.BatchNorm:
    """BatchNorm over the channels; its parameters stay float32 when the network is cast to
    float16."""
    kind = FrozenBatchNorm if frozen else BatchNorm
    return kind(
        axis=channel_axis(config),
        momentum=config.batch_norm_momentum,
        epsilon=config.batch_norm_epsilon,
        in_channels=channels,
        prefix=prefix,
    )


def box_rows(F, x, layout: str, used: int, values: int):
    """The output of a head's convolution, (B, C, H, W) or (B, H, W, C) of channels box * values +
    value, to (B, H * W * boxes, values). used: channels that count; more are zeros that a
    PaddedConv2D adds."""
    if layout == "NCHW":
        x = F.transpose(x, (0, 2, 3, 1))
    if used % 8:
        x = F.slice_axis(x, axis=3, begin=0, end=used)
    return F.reshape(x, (0, -1, values))


def twice(F, x, layout: str):
    """A map with twice the rows and columns, by nearest neighbour."""
    if layout == "NCHW":
        return F.UpSampling(x, scale=2, sample_type="nearest")
    for axis in (1, 2):  # MXNet's operator cannot do NHWC
        x = F.repeat(x, repeats=2, axis=axis)
    return x
