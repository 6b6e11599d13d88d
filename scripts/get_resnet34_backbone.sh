#!/usr/bin/env bash
# Gets torchvision's ResNet-34 (ImageNet): scripts/get_backbone.sh resnet34, with its options.
set -euo pipefail
PROGRAM=get_resnet34_backbone exec bash "$(dirname -- "${BASH_SOURCE[0]}")/get_backbone.sh" resnet34 "$@"
