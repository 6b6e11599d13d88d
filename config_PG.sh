#!/usr/bin/env bash
# Fujitsu PRIMERGY GX2460 M1: one node, 4 x A100 40 GB (PCIe). Exports only: `source config_PG.sh`, then sbatch run.sub
# or ./run_with_docker.sh. Every variable is explained here; the other configs give values alone. All are required: what
# is missing is named before anything starts. docs/launch.md has the table of what comes from the environment besides.

# The system and the job
export SYSTEM=PG                # short name: logs are called SYSTEM_<job>_<trial>.log
export NNODES=1                 # nodes; must be what `sbatch -N` is given
export PGNNODES=$NNODES         # the same under the name that `sbatch -N $PGNNODES -t $WALLTIME run.sub` uses
export WALLTIME=04:00:00        # of the whole job, all trials: hours:minutes:seconds; 21 minutes a trial were published
export NEXP=5                   # trials; a submission needs five
export NGPU=4                   # GPUs of a node, one rank each
export NSOCKET=2                # processors (sockets) of a node. This and the next two describe the system: ranks are
export SOCKETCORES=16           # ... bound by the topology that the machine itself tells, and a difference is reported.
export HT=2                     # ... SOCKETCORES are cores of a socket, HT hardware threads of a core; 0: not known

# The run
export RECIPE=ssd-resnet34-coco # settings that are not named below: a recipe in ssd/recipes, or a YAML file
export BACKBONE=resnet34        # whose ImageNet weights the recipe begins with: PRETRAINED_DIR/BACKBONE-*.onnx
export BATCHSIZE=114            # images per rank and step; the global batch is this times NNODES times NGPU
export NUMEPOCHS=65             # at most: training stops at mAP 0.23
# Flags of `python -m ssd train`, split at blanks. Learning rate, weight decay, warm-up, decay, cache, threads are the
# published submission's; the cache's size [MiB per GPU] is ours, from arithmetic: COCO decoded is about 108 GB, a
# quarter of it 27 GB, and what does not fit is decoded anew. COCO has a few boxes without width or height, hence
# --skip-bad-annotations.
export EXTRA_PARAMS="--device gpu --layout NHWC --dtype float16 --base-lr 0.003157 --weight-decay 1.3e-4 \
--warmup-epochs 3 --decay-epochs 44 55 --decode cache --cache-size 22000 --data-threads 4 --skip-bad-annotations \
--clear-cache"

# Who submits: stands in the MLPerf log
export SUBMISSION_ORG=unnamed
export SUBMISSION_PLATFORM="1xPRIMERGY GX2460 M1, 4xA100-PCIe-40GB"
