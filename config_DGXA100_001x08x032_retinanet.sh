#!/usr/bin/env bash
# RetinaNet on one NVIDIA DGX A100, 8 GPUs, global batch 256. config_PG.sh explains every variable.
#
# Batch, rate, warm-up and epochs are those of the reference's own configuration for this system (mlcommons/training,
# single_stage_detector, MLPerf v2.0 to v5.1), with which mAP .34 takes 4 epochs. NVIDIA's runs of v2.0 had 8.5e-5 and no
# warm-up on it, 4 epochs and 84 minutes.

export SYSTEM=DGXA100_001x08x032_retinanet
export NNODES=1
export DGXNNODES=$NNODES        # for `sbatch -N $DGXNNODES -t $WALLTIME run.sub`
export WALLTIME=10:00:00
export NEXP=5
export NGPU=8
export NSOCKET=2
export SOCKETCORES=64
export HT=2

export RECIPE=retinanet-resnext50-openimages
export BACKBONE=resnext50_32x4d
export BATCHSIZE=32
export NUMEPOCHS=8
# Decoded, the images are some 2.8 TB, so that there is no cache. The check before the clock reads headers alone:
# decoding 1.2 million images takes core-hours, and belongs before the job (docs/launch.md).
export EXTRA_PARAMS="--device gpu --layout NHWC --dtype float16 --base-lr 1e-4 --warmup-epochs 1 --decode gpu \
--data-threads 8 --check-images header --skip-bad-annotations --clear-cache"

export SUBMISSION_ORG=unnamed
export SUBMISSION_PLATFORM="1xDGXA100"
