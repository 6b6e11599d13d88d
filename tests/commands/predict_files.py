"""Inputs of predict, and reading its outputs."""

import json
import os
from fractions import Fraction

import av
import numpy as np


def image_paths(data):
    folder = os.path.join(data, "val2017")
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]


def read(folder):
    return [json.loads((folder / name).read_text()) for name in ("detections.json", "images.json")]


def files(folder):
    return sorted(
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder)
        for name in names
    )


def make_video(
    path, codec="libx264", size=(96, 64), frames=12, rate=Fraction(10), sound=None, **options
):
    """A square that moves over a grey background; sound: the codec of a tone of the same
    duration."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        audio = container.add_stream(sound, rate=48000, layout="mono") if sound else None
        stream.width, stream.height, stream.pix_fmt = *size, options.get("pixels", "yuv420p")
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), 90, np.uint8)
            pixels[10:30, 4 * number : 4 * number + 20] = (220, 40, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
        if sound:
            tone = 9000 * np.sin(np.arange(int(48000 * frames / rate)) * 0.06)
            frame = av.AudioFrame.from_ndarray(
                tone.astype(np.int16).reshape(1, -1), format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
            coder = audio.codec_context
            resampler = av.AudioResampler(
                coder.format, coder.layout, 48000, coder.frame_size or None
            )
            for part in [*resampler.resample(frame), *resampler.resample(None), None]:
                container.mux(audio.encode(part))
    return path


def look_at(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [
            (frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)
        ]
        return stream.codec_context.name, stream.average_rate, frames
