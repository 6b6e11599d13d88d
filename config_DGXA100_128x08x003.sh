#!/usr/bin/env bash
# NVIDIA DGX A100, 128 nodes, 1,024 GPUs, global batch 3,072. config_PG.sh explains every variable.
# BatchNorm works on groups of 8 GPUs, 24 images, as in the published runs.
#
# The published runs also had DALI work on batches 20 times as large, which this project does not do.

export SYSTEM=DGXA100_128x08x003
export NNODES=128
export DGXNNODES=$NNODES        # for `sbatch -N $DGXNNODES -t $WALLTIME run.sub`
export WALLTIME=01:00:00
export NEXP=5
export NGPU=8
export NSOCKET=2
export SOCKETCORES=64
export HT=2

export RECIPE=ssd-resnet34-coco
export BACKBONE=resnet34
export BATCHSIZE=3
export NUMEPOCHS=90
export EXTRA_PARAMS="--device gpu --layout NHWC --dtype float16 --base-lr 0.004 --weight-decay 4e-5 \
--warmup-epochs 35 --decay-epochs 68 85 --batch-norm-ranks 8 --eval-batch-size 5 --decode cache --cache-size 500 \
--data-threads 8 --skip-bad-annotations --clear-cache"

export SUBMISSION_ORG=unnamed
export SUBMISSION_PLATFORM="128xDGXA100"
