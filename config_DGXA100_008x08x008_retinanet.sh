#!/usr/bin/env bash
# RetinaNet on 8 NVIDIA DGX A100, 64 GPUs, global batch 512. config_PG.sh explains every variable.
#
# Batch, rate, warm-up and epochs are those of the reference's own configuration for this system (mlcommons/training,
# single_stage_detector); MLPerf's convergence point at 512 is 5 epochs. NVIDIA's runs on as many GPUs (v2.0) had batch 4.

export SYSTEM=DGXA100_008x08x008_retinanet
export NNODES=8
export DGXNNODES=$NNODES        # for `sbatch -N $DGXNNODES -t $WALLTIME run.sub`
export WALLTIME=03:00:00
export NEXP=5
export NGPU=8
export NSOCKET=2
export SOCKETCORES=64
export HT=2

export RECIPE=retinanet-resnext50-openimages
export BACKBONE=resnext50_32x4d
export BATCHSIZE=8
export NUMEPOCHS=8
export EXTRA_PARAMS="--device gpu --layout NHWC --dtype float16 --base-lr 1e-4 --warmup-epochs 1 --decode gpu \
--data-threads 8 --check-images header --skip-bad-annotations --clear-cache"

export SUBMISSION_ORG=unnamed
export SUBMISSION_PLATFORM="8xDGXA100"
