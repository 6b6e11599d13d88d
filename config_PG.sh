#!/usr/bin/env bash
# Fujitsu PRIMERGY GX2460 M1: one node, 4 x A100 40 GB (PCIe). Exports only: `source config_PG.sh`, then sbatch run.sub
# or ./run_with_docker.sh. Every variable is explained here; the other configs only set values. All are required, and
# a missing one is named before anything starts. docs/launch.md has a table of all variables, the environment's too.

# The system and the job
export SYSTEM=PG                # short name, used for logs: SYSTEM_<job>_<trial>.log
export NNODES=1                 # nodes; must equal `sbatch -N`
export PGNNODES=$NNODES         # the same, for `sbatch -N $PGNNODES -t $WALLTIME run.sub`
export WALLTIME=04:00:00        # of the job with all trials, hours:minutes:seconds; published: 21 minutes a trial
export NEXP=5                   # trials; a submission needs five
export NGPU=4                   # GPUs of a node, one rank each
export NSOCKET=2                # processors (sockets) of a node. This and the next two describe the system: ranks are
export SOCKETCORES=16           # ... bound by the machine's own topology, and a difference is reported.
export HT=2                     # ... SOCKETCORES: cores per socket; HT: hardware threads per core; 0: unknown

# The run
export RECIPE=ssd-resnet34-coco # all other settings: a recipe of ssd/recipes, or a YAML file
export BACKBONE=resnet34        # backbone of the ImageNet weights: PRETRAINED_DIR/BACKBONE-*.onnx
export BATCHSIZE=114            # images per rank and step; global batch: BATCHSIZE * NNODES * NGPU
export NUMEPOCHS=65             # maximum: training stops at mAP 0.23
# Flags of `python -m ssd train`, split at spaces. Learning rate, weight decay, warm-up, decay, cache and threads are
# the published submission's. The cache size [MiB per GPU] is ours, computed: decoded, COCO takes about 108 GB, a
# quarter of it 27 GB, and images that do not fit are decoded again. COCO has a few boxes without width or height,
# hence --skip-bad-annotations.
export EXTRA_PARAMS="--device gpu --layout NHWC --dtype float16 --base-lr 0.003157 --weight-decay 1.3e-4 \
--warmup-epochs 3 --decay-epochs 44 55 --decode cache --cache-size 22000 --data-threads 4 --skip-bad-annotations \
--clear-cache"

# The submitter, for the MLPerf log
export SUBMISSION_ORG=unnamed
export SUBMISSION_PLATFORM="1xPRIMERGY GX2460 M1, 4xA100-PCIe-40GB"
