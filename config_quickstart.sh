#!/usr/bin/env bash
# The quickstart: one process on the CPU, on generated data. Exports only; see README.md for every variable.
# Sourced before run_and_time.sh (scripts/quickstart.sh does both).

export RECIPE=ssd-resnet34-shapes     # settings that are not named below
export BATCHSIZE=4                    # images per rank and step
export NUMEPOCHS=65                   # at most; training stops at the target
export EXTRA_PARAMS="--device cpu --log-interval 50 --clear-cache"

export SUBMISSION_ORG=unnamed         # stands in the MLPerf log
export SUBMISSION_PLATFORM="quickstart, CPU"
