#!/usr/bin/env bash
# RetinaNet on a Fujitsu PRIMERGY with 10 x A100 (PCIe), global batch 240. config_PG.sh explains every variable.
#
# Batch, rate and warm-up are those of Fujitsu's runs in MLPerf v3.0 (mlcommons/training_results_v3.0): 4 epochs, 73
# minutes, 111 images/s a GPU.

export SYSTEM=PG_retinanet
export NNODES=1
export PGNNODES=$NNODES         # for `sbatch -N $PGNNODES -t $WALLTIME run.sub`
export WALLTIME=09:00:00
export NEXP=5
export NGPU=10
export NSOCKET=0                # unknown to us: ranks are bound by the machine's own topology
export SOCKETCORES=0
export HT=0

export RECIPE=retinanet-resnext50-openimages
export BACKBONE=resnext50_32x4d
export BATCHSIZE=24
export NUMEPOCHS=8
export EXTRA_PARAMS="--device gpu --layout NHWC --dtype float16 --base-lr 8.5e-5 --warmup-epochs 0 --decode gpu \
--data-threads 4 --check-images header --skip-bad-annotations --clear-cache"

export SUBMISSION_ORG=unnamed
export SUBMISSION_PLATFORM="1xPRIMERGY, 10xA100-PCIe"
