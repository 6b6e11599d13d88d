"""The benchmarks in numbers, for plans: data set, gradients, published results of MLPerf Training.

The minutes of a result are from run_start to run_stop, the mean of the middle three of five runs;
its epochs are those of the evaluation that reached the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Tuple

from ssd.config import Config
from ssd.rules import RULES


@dataclass(frozen=True)
class Published:
    """A published result."""

    name: str
    config: str  # the config_*.sh for this system, or ""
    nodes: int
    gpus: int  # per node, one rank each
    batch: int  # images per rank and step
    minutes: float
    epochs: float
    images_per_second: Optional[float] = None  # of the whole system; None: not published
    accelerator: str = ""  # of Benchmark.rates
    in_plans: bool = True  # whether plans for a system of its size may use its rate and minutes

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus

    @property
    def global_batch(self) -> int:
        return self.ranks * self.batch


@dataclass(frozen=True)
class Benchmark:
    """The numbers of a benchmark that plans need. Sizes are in bytes."""

    rules: Tuple[str, ...]  # names in RULES; the last one's convergence points are used
    rules_text: str  # for messages
    recipe: str  # of the convergence points
    data_set: str  # its name
    train_images: int  # trained on
    train_files: int
    train_boxes: int
    val_images: int
    val_boxes: int
    file_bytes: float  # mean of the image files
    decoded_bytes: int  # of a typical image
    storage_bytes: Optional[float]  # of the data set; None: not in the plan
    # Trained (numbers of the model's type, float32 numbers) of the recipe's network, by layout and
    # type.
    parameters: Dict[Tuple[str, str], Tuple[int, int]]
    evaluation_cost: float  # of an image evaluated, in images trained
    score_seconds: float  # from the end of an evaluation to its score
    # Whether the published programs train to the end of the epoch in which the score arrives.
    trains_to_epoch_end: bool
    eval_every: int  # epochs
    # The fewest images that any published run normalised together, including groups of GPUs; 0:
    # BatchNorm is frozen.
    smallest_batch_norm: int
    results: Tuple[Published, ...]
    small_batches: str  # the published results below the first convergence point, for messages
    check_notes: Tuple[str, ...]  # lines below the table of expected and published numbers
    score_note: str
    cache_note: str  # for --decode cache
    memory_note: str = ""
    rates: Optional[Dict[str, float]] = None  # images/s of one accelerator on one node

    @property
    def smallest_batch(self) -> int:
        return min(result.global_batch for result in self.results)


# Results: github.com/mlcommons/training_results_v1.1. Training continued to the end of the epoch in
# which the score was known, so that the logs have 1 to 4 epochs more. The parameters are those of
# the full network with 81 classes, as counted by tests/training/test_plan.py: NHWC pads the heads,
# and with float16 the input; BatchNorm's 9,856 stay float32. The cost of an evaluation is from a
# log of Fujitsu's (epoch 20 of result_0): 5,000 images were evaluated in 1.81 s, at 4,833 images/s
# in training, and the score was known 1.17 s later, while training continued.
SSD = Benchmark(
    rules=("ssd-1.1.0",),
    rules_text="ssd-1.1.0",
    recipe="ssd-resnet34-coco",
    data_set="COCO",
    train_images=117266,
    train_files=118287,
    train_boxes=860001,
    val_images=5000,
    val_boxes=36781,
    file_bytes=19336861798 / 118287,  # train2017.zip, which cannot compress JPEGs
    decoded_bytes=640 * 480 * 3,  # 108 GB in all
    storage_bytes=None,
    parameters={
        ("NCHW", "float32"): (19962678, 9856),
        ("NCHW", "float16"): (19962678, 9856),
        ("NHWC", "float32"): (20013384, 9856),
        ("NHWC", "float16"): (20016520, 9856),
    },
    evaluation_cost=1.75,
    score_seconds=1.2,
    trains_to_epoch_end=True,
    eval_every=5,
    smallest_batch_norm=24,  # the last two results had groups of GPUs: 2 x 24 and 8 x 3
    results=(
        Published(
            "Fujitsu PRIMERGY GX2460 M1, 4 x A100", "config_PG.sh", 1, 4, 114, 20.92, 50, 4833
        ),
        Published(
            "NVIDIA DGX A100, 1 node", "config_DGXA100_001x08x114.sh", 1, 8, 114, 8.26, 50, 12231
        ),
        Published(
            "NVIDIA DGX A100, 8 nodes",
            "config_DGXA100_008x08x024.sh",
            8,
            8,
            24,
            1.52,
            170 / 3,
            76351,
        ),
        Published(
            "NVIDIA DGX A100, 128 nodes",
            "config_DGXA100_128x08x003.sh",
            128,
            8,
            3,
            0.454,
            75,
            394195,
        ),
    ),
    small_batches="published results at 456 and above agree",
    check_notes=(
        "Minutes are computed from the images/s of the same result, whose program stops at the end "
        "of an epoch: they check",
        "epochs, evaluations and the last score, not throughput. The cost of an evaluation is from "
        "a log of the first row.",
    ),
    score_note="the wait for the last score is that of a published log; here it depends on the "
    "detections",
    cache_note="with --decode cache each rank first writes its share of the annotations for DALI, "
    "in the timed part: for a while 94 MB more, and 1.7 s with one rank, which the minutes above "
    "do not include",
)

# Results: github.com/mlcommons/training_results_v2.0 to _v5.1. The number of boxes in the subset of
# Open Images is not published; we use that of v6, an upper bound. The file size is the subset's
# 352 GB divided by its images; a typical image has 1,024 x 768 pixels. 78 of 89 tensors are
# trained, all of them convolutions'. The cost of an evaluation, including its score, is what
# remains of the DGX H100's run of v3.0 after 4 epochs at 280 images/s per GPU: 37.0 - 34.8 minutes
# for 4 times 24,781 images.
_A100, _A100_PCIE, _H100 = "A100 SXM", "A100 PCIe", "H100 SXM"
RETINANET = Benchmark(
    rules=tuple(name for name in RULES if name.startswith("retinanet-")),
    rules_text="retinanet-2.0.0 to -5.1.0",
    recipe="retinanet-resnext50-openimages",
    data_set="Open Images",
    train_images=1170301,
    train_files=1170301,
    train_boxes=14610229,
    val_images=24781,
    val_boxes=303980,
    file_bytes=352e9 / (1170301 + 24781),
    decoded_bytes=1024 * 768 * 3,
    storage_bytes=352e9,
    parameters={
        ("NCHW", "float32"): (36849004, 0),
        ("NCHW", "float16"): (36849004, 0),
        ("NHWC", "float32"): (36849004, 0),
        ("NHWC", "float16"): (36849004, 0),
    },
    evaluation_cost=2.94,
    score_seconds=0,
    trains_to_epoch_end=False,
    eval_every=1,
    smallest_batch_norm=0,
    results=(
        Published(
            "v2.0 NVIDIA DGX A100, 8 GPUs",
            "config_DGXA100_001x08x032_retinanet.sh",
            1,
            8,
            32,
            84.4,
            4,
            None,
            _A100,
        ),
        Published("v2.0 NVIDIA, 64 x A100", "", 8, 8, 4, 14.46, 4, None, _A100),
        Published("v2.0 NVIDIA, 1,280 x A100", "", 160, 8, 1, 4.25, 7, None, _A100),
        Published("v2.0 Google, 2,048 x TPU v4", "", 512, 4, 1, 2.29, 9, in_plans=False),
        Published("v2.0 Fujitsu GX, 8 x A100", "", 1, 8, 16, 183.4, 5, None, _A100, in_plans=False),
        Published("v2.1 Fujitsu GX, 8 x A100", "", 1, 8, 16, 121.5, 5, None, _A100, in_plans=False),
        Published(
            "v2.1 ASUS, 8 x A100 PCIe", "", 1, 8, 32, 89.1, 4, None, _A100_PCIE, in_plans=False
        ),
        Published("v2.1 NVIDIA, 2,048 x A100", "", 256, 8, 1, 1.84, 8, None, _A100),
        Published("v3.0 NVIDIA DGX H100, 8 GPUs", "", 1, 8, 32, 37.0, 4, 2240, in_plans=False),
        Published("v3.0 NVIDIA, 64 x H100", "", 8, 8, 4, 6.51, 4, None, _H100, in_plans=False),
        Published("v3.0 NVIDIA, 768 x H100", "", 96, 8, 1, 1.51, 5, None, _H100, in_plans=False),
        Published(
            "v3.0 Fujitsu PRIMERGY, 10 x A100 PCIe",
            "config_PG_retinanet.sh",
            1,
            10,
            24,
            73.2,
            4,
            1110,
        ),
        Published("v3.0 Intel, 32 x Xeon 8480+", "", 16, 2, 8, 232.4, 4, in_plans=False),
        Published("v3.1 NVIDIA Eos, 8 x H100", "", 1, 8, 32, 35.97, 4, None, _H100, in_plans=False),
        Published(
            "v3.1 NVIDIA Eos, 2,048 x H100", "", 256, 8, 1, 0.855, 7.5, None, _H100, in_plans=False
        ),
        Published("v4.0 NVIDIA, 8 x H200", "", 1, 8, 32, 34.3, 4, in_plans=False),
        Published(
            "v4.0 NVIDIA, 2,528 x H100", "", 316, 8, 1, 0.778, 9, None, _H100, in_plans=False
        ),
        Published(
            "v4.0 Fujitsu GX2560 M7, 4 x H100", "", 1, 4, 64, 69.7, 4, None, _H100, in_plans=False
        ),
        Published("v4.0 Fujitsu CDI, 16 x L40S", "", 1, 16, 16, 58.6, 4, in_plans=False),
        Published("v4.1 Fujitsu CDI, 16 x H100 NVL", "", 1, 16, 16, 26.5, 4, in_plans=False),
        Published("v5.0 8 x B200", "", 1, 8, 32, 22.1, 4, in_plans=False),
        Published("v5.0 tinygrad, 6 x RTX 4090", "", 1, 6, 16, 803.6, 4, in_plans=False),
        Published("v5.0, v5.1 512 x GB200", "", 128, 4, 2, 1.39, 6, in_plans=False),
    ),
    memory_note="main memory counts every box of Open Images v6 (14.6 million), since the subset's "
    "number is not published: an upper bound",
    rates={_A100: 122, _A100_PCIE: 115, _H100: 280},
    small_batches="published results at 96 and above took 4, or 5 at 128",
    check_notes=(
        "Epochs 7.5 and 9.0 are the middle of 7 to 8 and of 8 to 10. Minutes are computed from the "
        "images/s of the same result, or",
        "with a * from those of its GPU on one node (A100 SXM 122, A100 PCIe 111 to 120, H100 SXM "
        "280): the error shows what smaller batches",
        "and another machine cost. Without either, no minutes are computed. The cost of an "
        "evaluation, including its score, is from",
        "the DGX H100's row of v3.0.",
    ),
    score_note="evaluations, including scores, cost what they did in a published run on a DGX "
    "H100; here they depend on the detections",
    cache_note="with --decode cache each rank first writes its share of the annotations for DALI, "
    "in the timed part; the time for this data set is not known",
)

BENCHMARKS: Dict[str, Benchmark] = {"ssd": SSD, "retinanet": RETINANET}


def benchmark_of(config: Config) -> Optional[Benchmark]:
    """The benchmark of the settings' rules; None for run.rules none."""
    return next(
        (benchmark for benchmark in BENCHMARKS.values() if config.run.rules in benchmark.rules),
        None,
    )
