#!/usr/bin/env bash
# Runs a job as several processes on this machine, on its CPU.
#
#   ./launch/local_processes.sh N [--devices=D] [--restarts=R] [--grace=SECONDS]
#       [--port=P] [--dry_run] JOB [--FLAG=VALUE ...]
#   ./launch/local_processes.sh 2 --devices=2 byol_jax.pretrain \
#       --config=configs/quickstart.py --workdir=runs/two
#
# N processes of D CPU devices each (1) are what a pod of N hosts is to the job,
# which gets its --coordinator, --num_processes and --process_id. When one dies,
# or leaves with code 75, it is named, the others get SIGTERM and SECONDS (20)
# to follow, and all are started again, R times (3), counted anew once all have
# run for an hour. Code 1, a user's error, is not tried again. SIGTERM and
# SIGINT reach all processes, a second one too. Process 0 writes to the terminal;
# what the others say goes to stderr behind [their number]. Nothing is left
# running. The exit code is 0 if the job is done, 75 if it was stopped and the
# same command goes on, and else the failure's.
# P is the coordinator's port on 127.0.0.1; by default a free one. --dry_run
# prints the commands and starts none. Paths are relative to where you are. An
# active environment that has JAX is used; else one is made.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/terminal.sh
source "$here/terminal.sh"
# shellcheck source=launch/supervise.sh
source "$here/supervise.sh"

count=
devices=1
restarts=3
grace=20
fixed_port=
dry_run=
job=()
while (($#)); do
  case $1 in
    --help) print_usage; exit ;;
    --devices=*) devices=${1#*=} ;;
    --restarts=*) restarts=${1#*=} ;;
    --grace=*) grace=${1#*=} ;;
    --port=*) fixed_port=${1#*=} ;;
    --dry_run) dry_run=yes ;;
    -*) refuse "unexpected argument '$1' before the job, expected --devices," \
      '--restarts, --grace, --port or --dry_run; --help says more' ;;
    *)
      if [[ -n $count ]]; then
        job=("$@")
        break
      fi
      count=$1 ;;
  esac
  shift
done
[[ -n $count ]] || refuse 'expected a number of processes; --help says more'
require_number 'number of processes' "$count" 1
require_number --devices "$devices" 1
require_number --restarts "$restarts" 0
require_number --grace "$grace" 1
[[ -z $fixed_port ]] || require_number --port "$fixed_port" 1
require_job ${job[@]+"${job[@]}"}

# Sets `port`. Those that systems lend to clients begin at 32768.
choose_port() {
  port=$fixed_port
  while [[ -z $port ]]; do
    port=$((20000 + RANDOM % 12000))
    if (: < "/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      port=  # Somebody listens.
    fi
  done
}

# Sets `command` to that of process I; a start has one port, and the next start
# has another, as the system may hold one that was in use.
choose_command() {
  local flags=--xla_force_host_platform_device_count=$devices
  (($1)) || choose_port
  # shellcheck disable=SC2034  # by supervise
  command=(
    env JAX_PLATFORMS=cpu "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }$flags"
    PYTHONUNBUFFERED=1 python -m "${job[@]}" "--coordinator=127.0.0.1:$port"
    "--num_processes=$count" "--process_id=$1")
}

if [[ -n $dry_run ]]; then
  for ((i = 0; i < count; i++)); do
    choose_command "$i"
    print_command "${command[@]}"
  done
  exit
fi

where=$PWD
# shellcheck source=launch/environment.sh
source "$here/environment.sh" active
cd "$where"
export PYTHONPATH=${here%/*}${PYTHONPATH:+:$PYTHONPATH}
code=0
supervise "$count" "$restarts" "$grace" || code=$?
exit "$code"
