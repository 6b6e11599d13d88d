#!/usr/bin/env bash
# NVIDIA DGX A100, 1 node, 8 GPUs, global batch 912. config_PG.sh explains every variable.

export SYSTEM=DGXA100_001x08x114
export NNODES=1
export DGXNNODES=$NNODES        # for `sbatch -N $DGXNNODES -t $WALLTIME run.sub`
export WALLTIME=02:00:00
export NEXP=5
export NGPU=8
export NSOCKET=2
export SOCKETCORES=64
export HT=2

export RECIPE=ssd-resnet34-coco
export BACKBONE=resnet34
export BATCHSIZE=114
export NUMEPOCHS=65
export EXTRA_PARAMS="--device gpu --layout NHWC --dtype float16 --base-lr 0.003157 --weight-decay 1.3e-4 \
--warmup-epochs 5 --decay-epochs 44 55 --decode cache --cache-size 15000 --data-threads 8 --skip-bad-annotations \
--clear-cache"

export SUBMISSION_ORG=unnamed
export SUBMISSION_PLATFORM="1xDGXA100"
