#!/usr/bin/env bash
# Runs a job on all GPUs of this machine, and again when it was cut short.
#
#   ./launch/gpu_node.sh [--restarts=R] [--grace=SECONDS] [--dry_run]
#       JOB [--FLAG=VALUE ...]
#   ./launch/gpu_node.sh byol_jax.pretrain \
#       --config=configs/imagenet_resnet50.py:300 --workdir=runs/imagenet
#
# Installs what the GPUs need first. One process drives them all, or those that
# CUDA_VISIBLE_DEVICES names. When it dies by a signal, or leaves with code 75,
# the same command goes on from the last checkpoint, R times (3), counted anew
# once it has run for an hour. Code 1, a user's error, is not tried again.
# SIGTERM and SIGINT are passed on; a process that does not follow a second one
# is killed after SECONDS (20). The exit code is 0 if the job is done, 75 if it
# was stopped and the same command goes on, and else the failure's. --dry_run
# prints the commands and runs none. Paths are relative to where you are.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/terminal.sh
source "$here/terminal.sh"
# shellcheck source=launch/supervise.sh
source "$here/supervise.sh"

restarts=3
grace=20
dry_run=
while (($#)); do
  case $1 in
    --help) print_usage; exit ;;
    --restarts=*) restarts=${1#*=} ;;
    --grace=*) grace=${1#*=} ;;
    --dry_run) dry_run=yes ;;
    -*) refuse "unexpected argument '$1' before the job, expected" \
      '--restarts, --grace or --dry_run; --help says more' ;;
    *) break ;;
  esac
  shift
done
require_number --restarts "$restarts" 0
require_number --grace "$grace" 1
require_job "$@"
job=("$@")

# Sets `command`, for supervise. CUDA, or an error: nobody wants to find after a
# day that it ran on the CPU.
choose_command() {
  # shellcheck disable=SC2034
  command=(env "JAX_PLATFORMS=cuda,cpu" python -m "${job[@]}")
}

list_gpus=(
  nvidia-smi "--query-gpu=index,name,memory.total" "--format=csv,noheader")

# Refuses a machine, or a choice, without a GPU; else says what there is.
check_gpus() {
  local gpus
  if ! gpus=$("${list_gpus[@]}" 2>&1); then
    refuse "nvidia-smi failed (${gpus##*$'\n'}), expected a machine with" \
      'NVIDIA GPUs and their driver; without, see ./launch/quickstart.sh'
  fi
  [[ -n $gpus ]] || refuse 'nvidia-smi lists no GPU'
  if [[ -v CUDA_VISIBLE_DEVICES ]]; then
    [[ -n $CUDA_VISIBLE_DEVICES ]] || refuse \
      'CUDA_VISIBLE_DEVICES is empty, which hides all GPUs: unset it'
    say "of these, CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES:"
  fi
  echo "$gpus" >&2
}

if [[ -n $dry_run ]]; then
  print_command "${list_gpus[@]}"
  print_command source "$here/environment.sh" cuda
  choose_command
  print_command "${command[@]}"
  exit
fi

check_gpus
where=$PWD
# shellcheck source=launch/environment.sh
source "$here/environment.sh" cuda
cd "$where"
export PYTHONPATH=${here%/*}${PYTHONPATH:+:$PYTHONPATH}
code=0
supervise 1 "$restarts" "$grace" || code=$?
exit "$code"
