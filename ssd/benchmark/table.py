"""A benchmark's result as a table."""

from __future__ import annotations

from typing import Dict, List, Tuple

from ssd.commandline import format_bytes

NAMES = 20  # columns of the lines' names
Lines = List[Tuple[str, str]]


def format_result(result: Dict) -> str:
    """The lines of a result as docs/benchmarking.md describes it."""
    lines = [
        ("benchmark", _what(result)),
        ("machine", _machine(result["machine"])),
        (
            "libraries",
            ", ".join(
                f"{name} {version}" for name, version in result["machine"]["versions"].items()
            ),
        ),
    ]
    of_mode = dict(train=_network, infer=_network, data=_data, score=_score, allreduce=_allreduce)
    lines += of_mode[result["mode"]](result)
    memory = result["memory"]
    gpu = (
        f", {format_bytes(memory['gpu_bytes'])} of the GPU's in use"
        if memory.get("gpu_bytes")
        else ""
    )
    lines.append(
        (
            "peak memory",
            f"{format_bytes(memory['peak_rss_bytes'])}"
            f"{' of a rank' if result.get('ranks', 1) > 1 else ''}{gpu}",
        )
    )
    return "\n".join(f"{name:<{NAMES}}{text}" for name, text in lines)


def _what(result: Dict) -> str:
    if result["mode"] == "score":
        return (
            f"score, {result['images']:,} images with {result['boxes']:,} boxes, "
            f"{result['detections']:,} detections, by {result['scorer']}"
        )
    text = (
        f"{result['mode']}, recipe {result['recipe']}, {result['device']}, "
        f"{_count(result['ranks'], 'rank')}"
    )
    if "batch_size" in result:
        text += (
            f", batches of {result['batch_size']}{' each' if result['ranks'] > 1 else ''}, "
            f"{result['image_size']} pixels"
        )
    return text


def _machine(machine: Dict) -> str:
    gpus = f", {_count(machine['gpus'], 'GPU')}" if machine["gpus"] else ""
    return (
        f"{machine['processor']}, {_count(machine['cores'], 'core')}, OMP_NUM_THREADS "
        f"{machine['openmp_threads']}, {format_bytes(machine['memory_bytes'])}{gpus}, "
        f"{machine['system']}"
    )


def _network(result: Dict) -> Lines:
    arithmetic = result["arithmetic"]
    peaks, shares = arithmetic["peaks"], arithmetic["share_of_peak"]
    lines = _steps(result) + [
        ("waiting for data", f"{100 * result['data_wait_share']:.2f} % of the time"),
        *_lock(result),
        (
            "arithmetic",
            f"{arithmetic['operations_per_image'] / 1e9:.4g} GFLOP an image, "
            f"{arithmetic['operations_per_second'] / 1e9:.4g} GFLOP/s",
        ),
    ]
    for name, title in (("convolution", "convolution peak"), ("matrix_product", "matrix peak")):
        lines.append(
            (
                title,
                f"{_spread(peaks[name], 1e-9)} GFLOP/s{' a rank' if result['ranks'] > 1 else ''}; "
                f"reached {100 * shares[name]:.1f} %",
            )
        )
    if result.get("detections_per_image") is not None:
        lines.append(
            (
                "detections",
                f"{result['detections_per_image']:.1f} an image ({result['weights']} weights)",
            )
        )
    return lines + _parts(result, "waiting after each")


def _lock(result: Dict) -> Lines:
    share = result.get("lock_wait_share")  # of a training alone
    return (
        [] if share is None else [("Python's lock", f"{100 * share:.2f} % of the time waited for")]
    )


def _steps(result: Dict) -> Lines:
    rank = f"; rank {result['slowest_rank']}, the slowest" if result["ranks"] > 1 else ""
    return [
        ("data", result["data"]),
        (
            "step",
            f"{_spread(result['step_seconds'])} s ({_count(result['steps'], 'step')} after "
            f"{result['warmup']}{rank})",
        ),
        ("images/s", _spread(result["images_per_second"])),
    ]


def _parts(result: Dict, how: str) -> Lines:
    sum_of = sum(part["seconds"]["median"] for part in result["parts"])
    share = sum_of / result["step_seconds"]["median"]
    lines = [("in parts", f"{how}: {sum_of:.4g} s, {100 * share:.0f} % of a step")]
    return lines + [
        ("  " + part["name"], f"{100 * part['share']:5.1f} %  {_spread(part['seconds'], 1e3)} ms")
        for part in result["parts"]
    ]


def _data(result: Dict) -> Lines:
    speed, alone = result["images_per_second"], result["decoding_alone"]
    lines = [
        ("data", result["data"]),
        (
            "batch",
            f"{_spread(result['step_seconds'])} s ({_count(result['steps'], 'batch', 'batches')} "
            f"after {result['warmup']}, {_count(result['data_threads'], 'thread')}, "
            f"{result['prefetch']} ahead)",
        ),
        ("images/s", f"{_number(speed['overall'])} over all"),
        (
            "decoding alone",
            f"{_number(alone['images_per_second'])} images/s by {alone['by']} with as many "
            f"threads, {format_bytes(alone['bytes_per_image'])} an image; reached "
            f"{100 * result['share_of_decoding']:.1f} %",
        ),
        ("stages", "each includes those above, images/s"),
    ]
    return lines + [
        ("", f"{_number(stage['images_per_second']):>7}  {stage['name']}")
        for stage in result["stages"]
    ]


def _score(result: Dict) -> Lines:
    return [
        ("data", result["data"]),
        (
            "seconds",
            f"{_spread(result['step_seconds'])} ({_count(result['steps'], 'time')} after "
            f"{result['warmup']})",
        ),
        ("images/s", _spread(result["images_per_second"])),
        ("detections/s", _spread(result["detections_per_second"])),
    ] + _parts(result, "one by one")


def _allreduce(result: Dict) -> Lines:
    lines = [
        ("gradients", f"{format_bytes(result['gradient_bytes'])} in {result['tensors']} tensors")
    ]
    if result["ranks"] == 1:
        return lines + [("nothing to do", result["note"])]
    return lines + [
        (
            "step",
            f"{_spread(result['step_seconds'])} s ({_count(result['steps'], 'step')} after "
            f"{result['warmup']}; the slowest rank of each)",
        ),
        (
            "bandwidth",
            f"{_spread(result['bus_bytes_per_second'], 1e-9)} GB/s on the bus, 2 (n - 1) / n of "
            "the gradients a step",
        ),
    ]


def _spread(values: Dict[str, float], factor: float = 1.0) -> str:
    """Median (quartiles)."""
    median, first, third = (
        _number(values[name] * factor) for name in ("median", "quartile_1", "quartile_3")
    )
    return f"{median} ({first} to {third})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
