#!/usr/bin/env bash
# RetinaNet on 32 NVIDIA DGX A100, 256 GPUs, global batch 8,192. config_PG.sh explains every variable.
#
# Batch, rate, warm-up and epochs are those of the reference's own configuration for this system (mlcommons/training,
# single_stage_detector). Nobody has published a run with such a batch, and MLPerf's convergence points end at 4,096 (15
# epochs): how many epochs it takes is not known, and the package checker takes no closed submission of it.

export SYSTEM=DGXA100_032x08x032_retinanet
export NNODES=32
export DGXNNODES=$NNODES        # for `sbatch -N $DGXNNODES -t $WALLTIME run.sub`
export WALLTIME=05:00:00
export NEXP=5
export NGPU=8
export NSOCKET=2
export SOCKETCORES=64
export HT=2

export RECIPE=retinanet-resnext50-openimages
export BACKBONE=resnext50_32x4d
export BATCHSIZE=32
export NUMEPOCHS=35
export EXTRA_PARAMS="--device gpu --layout NHWC --dtype float16 --base-lr 1e-4 --warmup-epochs 1 --decode gpu \
--data-threads 8 --check-images header --skip-bad-annotations --clear-cache"

export SUBMISSION_ORG=unnamed
export SUBMISSION_PLATFORM="32xDGXA100"
