#!/usr/bin/env bash
# Pretrains BYOL on CIFAR-10 and probes it, on whatever machine this is.
#
#   ./launch/quickstart.sh [--workdir=DIR] [--config.FIELD=VALUE ...]
#
# Installs, gets the data, pretrains, and compares the encoder with the same
# one at random initialisation. Running it again continues where it stopped.
# On two CPU cores it takes under 15 minutes once installed.
set -euo pipefail

workdir=runs/quickstart
arguments=()
while (($#)); do
  case $1 in
    --workdir=*) workdir=$(realpath -m "${1#*=}") ;;
    --workdir) workdir=$(realpath -m "${2:?--workdir needs a directory}")
      shift ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh" auto

exec python -m byol_jax.pretrain --config=configs/quickstart.py \
  --workdir="$workdir" ${arguments[@]+"${arguments[@]}"}
