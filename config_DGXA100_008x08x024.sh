#!/usr/bin/env bash
# NVIDIA DGX A100, 8 nodes, 64 GPUs, global batch 1,536. config_PG.sh explains every variable.
# BatchNorm works on groups of 2 GPUs, 48 images, as in the published runs (56 to 66 epochs).

export SYSTEM=DGXA100_008x08x024
export NNODES=8
export DGXNNODES=$NNODES        # for `sbatch -N $DGXNNODES -t $WALLTIME run.sub`
export WALLTIME=01:00:00
export NEXP=5
export NGPU=8
export NSOCKET=2
export SOCKETCORES=64
export HT=2

export RECIPE=ssd-resnet34-coco
export BACKBONE=resnet34
export BATCHSIZE=24
export NUMEPOCHS=70
export EXTRA_PARAMS="--device gpu --layout NHWC --dtype float16 --base-lr 0.004 --weight-decay 1.7e-4 \
--warmup-epochs 15 --decay-epochs 48 60 --batch-norm-ranks 2 --decode cache --cache-size 3000 --data-threads 8 \
--skip-bad-annotations --clear-cache"

export SUBMISSION_ORG=unnamed
export SUBMISSION_PLATFORM="8xDGXA100"
