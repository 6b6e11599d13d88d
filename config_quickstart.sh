#!/usr/bin/env bash
# The quickstart: one process on the CPU, on synthetic data. config_PG.sh explains every variable. Source it before
# run_and_time.sh (scripts/quickstart.sh does both), run_with_docker.sh or `sbatch run.sub`.

export SYSTEM=quickstart
export NNODES=1
export WALLTIME=00:30:00
export NEXP=1
export NGPU=1                         # ranks per node, here without GPUs
export NSOCKET=0                      # any machine will do
export SOCKETCORES=0
export HT=0

export RECIPE=ssd-resnet34-shapes
export BACKBONE=resnet34
export BATCHSIZE=4
export NUMEPOCHS=65
export EXTRA_PARAMS="--device cpu --log-interval 50 --clear-cache"
export PRETRAINED_DIR="${PRETRAINED_DIR:-none}"    # training starts from random weights

export SUBMISSION_ORG=unnamed
export SUBMISSION_PLATFORM="quickstart, CPU"
