#!/usr/bin/env bash
# Runs a job on all hosts of a Cloud TPU slice, through preemptions, to its end.
#
#   ./launch/tpu_pod.sh run --name=NAME --zone=ZONE --accelerator_type=TYPE
#       [--project=PROJECT] [--runtime_version=VERSION] [--spot] [--queued]
#       [--restarts=R] [--delete_at_end] [--dry_run] JOB [--FLAG=VALUE ...]
#   ./launch/tpu_pod.sh stop --name=NAME --zone=ZONE [--project=PROJECT]
#   ./launch/tpu_pod.sh fetch --name=NAME --zone=ZONE [--project=PROJECT]
#       --workdir=WORKDIR --output=DIR
#   ./launch/tpu_pod.sh delete --name=NAME --zone=ZONE [--project=PROJECT]
#       [--queued]
#
#   ./launch/tpu_pod.sh run --name=byol --zone=us-central2-b \
#       --accelerator_type=v4-32 --spot byol_jax.pretrain \
#       --config=configs/imagenet_resnet50.py:300 --workdir=gs://BUCKET/r50
#
# run creates the slice, or takes it as it is if it is there, copies the project
# as git sees it (changes that are not committed too, what .gitignore names
# not), installs, starts JOB on all hosts, and follows the log of the first. JOB
# does not need the connection: Ctrl-C ends the following alone, and the same
# command follows again. When the slice is preempted it is made anew and the
# same copy started again; so is a job that left with 75, R times (20) in a row:
# once it has run for an hour, that is counted anew. Code 1, a user's error, ends
# it, and so does a slice that is FAILED three times in a row. A workdir in
# gs:// survives the slice; one on its disks does not, and its hosts do not share
# it. --queued asks for a queued resource and waits until it is ACTIVE.
# --delete_at_end deletes the slice when JOB is done or has failed. stop lets JOB
# save and leave. fetch makes DIR/NAME of a workdir .../NAME. The exit code is 0
# if the job is done, 75 if it was stopped, else the failure's. --dry_run prints
# the commands and runs none.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/terminal.sh
source "$here/terminal.sh"

readonly RUN_AGAIN=75
readonly LASTING_SECONDS=${LASTING_SECONDS:-3600}  # tests have less time
# On the hosts, from the home folder.
readonly WORKER=byol_jax/launch/tpu_worker.sh
readonly STATUS="test ! -e $WORKER || bash $WORKER status"

action=
name=
where=(--quiet)
zone=
accelerator_type=
runtime_version=
queued=
spot=()
restarts=20
delete_at_end=
dry_run=
workdir=
output=
poll_seconds=30
job=()

parse_arguments() {
  case ${1:-} in
    --help) print_usage; exit ;;
    run | stop | fetch | delete) action=$1; shift ;;
    *) refuse "'${1:-}': expected run, stop, fetch or delete;" \
      '--help says more' ;;
  esac
  while (($#)); do
    case $1 in
      --name=*) name=${1#*=} ;;
      --zone=*) zone=${1#*=}; where+=("$1") ;;
      --project=*) where+=("$1") ;;
      --accelerator_type=*) accelerator_type=${1#*=} ;;
      --runtime_version=*) runtime_version=${1#*=} ;;
      --spot) spot=(--spot) ;;
      --queued) queued=yes ;;
      --restarts=*) restarts=${1#*=} ;;
      --delete_at_end) delete_at_end=yes ;;
      --dry_run) dry_run=yes ;;
      --workdir=*) workdir=${1#*=} ;;
      --output=*) output=${1#*=} ;;
      --poll_seconds=*) poll_seconds=${1#*=} ;;  # of tests
      -*) refuse "unexpected argument '$1' before the job; --help says more" ;;
      *) job=("$@"); break ;;
    esac
    shift
  done
}

# The images that Google's pages name for JAX; Python comes with `install`.
choose_runtime_version() {
  case $accelerator_type in
    v2-* | v3-* | v4-*) runtime_version=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime_version=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime_version=v2-alpha-tpuv5 ;;
    v6e-*) runtime_version=v2-alpha-tpuv6e ;;
    *) refuse "--accelerator_type is '$accelerator_type', expected one such" \
      'as v4-32, v5litepod-64, v5p-128 or v6e-64; of another kind with' \
      '--runtime_version' ;;
  esac
}

check_arguments() {
  local argument
  [[ -n $name ]] || refuse 'expected --name=NAME of the slice'
  [[ -n $zone ]] || refuse 'expected --zone=ZONE, such as us-central2-b'
  if [[ $action == fetch ]]; then
    [[ -n $workdir ]] || refuse 'expected --workdir=WORKDIR to fetch'
    [[ -n $output ]] || refuse 'expected --output=DIR to fetch to'
  fi
  [[ $action == run ]] || return 0
  [[ -n $runtime_version ]] || choose_runtime_version
  require_number --restarts "$restarts" 0
  require_job ${job[@]+"${job[@]}"}
  for argument in "${job[@]}"; do
    if [[ $argument == --workdir=* && $argument != --workdir=gs://* ]]; then
      say "note: $argument is on the slice's disks: it goes when the slice" \
        'goes, and hosts do not share it; expected gs://BUCKET/DIRECTORY'
    fi
  done
}

# What is asked of gcloud; a slice that was queued for is asked about, made and
# deleted by its place in the queue, which bears the same name.
set_commands() {
  local kind=(gcloud compute tpus tpu-vm) of_kind=("--version=$runtime_version")
  local by_force=() state='value(state)'
  if [[ -n $queued ]]; then
    kind=(gcloud compute tpus queued-resources)
    of_kind=("--node-id=$name" "--runtime-version=$runtime_version")
    by_force=(--force)
    state='value(state.state)'
  fi
  describe=("${kind[@]}" describe "$name" "${where[@]}" "--format=$state")
  create=(
    "${kind[@]}" create "$name" "${where[@]}"
    "--accelerator-type=$accelerator_type" "${of_kind[@]}"
    ${spot[@]+"${spot[@]}"})
  delete=(
    "${kind[@]}" delete "$name" "${where[@]}"
    ${by_force[@]+"${by_force[@]}"})
}

# Sets `command`: that which runs a line of shell on HOST, a number or all. A
# connection to a host that is gone ends after two minutes.
on_host() {
  command=(
    gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" "--worker=$1"
    --ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oServerAliveCountMax=4
    "--command=$2")
}

# The same of tpu_worker.sh with arguments.
on_worker() {
  local host=$1
  shift
  on_host "$host" "$(print_command bash "$WORKER" "$@")"
}

# Sets `command`: that which copies the archive to all hosts.
copy_archive() {
  command=(
    gcloud compute tpus tpu-vm scp "$scratch/byol_jax.tar.gz" "$name:"
    "${where[@]}" --worker=all)
}

# The new copy takes the place of the old one whole.
readonly UNPACK='rm -rf byol_jax && mkdir byol_jax &&'\
' tar -xzf byol_jax.tar.gz -C byol_jax'

# Packs what git knows of, or would, and is there.
# shellcheck disable=SC2016
readonly PACK='git ls-files -z --cached --others --exclude-standard |
while IFS= read -r -d "" file; do
  if [[ -e $file ]]; then printf "%s\0" "$file"; fi
done | tar -czf "$1" --null --files-from=-'

# Sets `command`: that which makes the archive.
pack() {
  command=(bash -o pipefail -c "$PACK" pack "$scratch/byol_jax.tar.gz")
}

# Runs `command`, up to three times: connections to new hosts fail at first.
try() {
  local times
  for times in 1 2 3; do
    if "${command[@]}"; then
      return
    fi
    ((times == 3)) || say 'failed; trying again'
    sleep "$poll_seconds"
  done
  return 1
}

# Sets `state`, empty if there is no such slice.
look() {
  if state=$("${describe[@]}" 2> "$scratch/errors"); then
    return
  fi
  grep -qi 'not.found' "$scratch/errors" || return 1
  state=
}

# What gcloud says when asking again may help: the cloud is out of order, or the
# slice that was taken away is not quite gone.
readonly OUTAGES='unavailable|internal error|deadline|timed out|connection'\
'|already exists'
readonly MAX_OUTAGES=20
outages=0

create_slice() {
  say "creating $name: $accelerator_type in $zone"
  local code=0
  "${create[@]}" 2> "$scratch/errors" || code=$?
  cat "$scratch/errors" >&2
  if ((code)); then
    # Somebody else's slice may end, and an outage too; a slip stays.
    if grep -qi 'no more capacity' "$scratch/errors"; then
      say 'trying again; --queued waits for a place without asking'
    elif grep -Eqi "$OUTAGES" "$scratch/errors" &&
        ((++outages < MAX_OUTAGES)); then
      say 'trying again'
    else
      refuse "gcloud did not create $name, and says why above"
    fi
    sleep "$poll_seconds"
  else
    outages=0
  fi
}

# How to be rid of the slice, as it is to be typed.
print_delete() {
  print_command ./launch/tpu_pod.sh delete "--name=$name" "${where[@]:1}" \
    ${queued:+--queued}
}

# What was FAILED so often in a row will be so again; the cloud says why.
readonly MAX_FAILED=3
refuse_failed() {
  "${describe[@]/#--format=*/--format=yaml}" >&2 || true
  refuse "$name was FAILED $MAX_FAILED times; above is what gcloud knows of" \
    "it, and it is still there: $(print_delete)"
}

# Returns when there is a slice that can be used.
get_slice() {
  local before=none failures=0 failed=0
  while true; do
    if ! look; then
      failures=$((failures + 1))
      ((failures < 3)) || refuse "gcloud: $(tail -n 1 "$scratch/errors")"
      sleep "$poll_seconds"
      continue
    fi
    failures=0
    case $state in
      READY | ACTIVE) return ;;
      '') create_slice ;;
      PREEMPTED | TERMINATED | FAILED | SUSPENDED)
        [[ $state != FAILED ]] || ((failed + 1 < MAX_FAILED)) || refuse_failed
        say "$name is $state; deleting what is left of it"
        if "${delete[@]}"; then
          [[ $state == FAILED ]] && failed=$((failed + 1)) || failed=0
        else
          ((++outages < MAX_OUTAGES)) || refuse "$name cannot be deleted;" \
            'gcloud says why above'
          sleep "$poll_seconds"
        fi ;;
      STOPPED | STOPPING)
        refuse "$name is $state: start it, or $(print_delete)" ;;
      *)
        [[ $state == "$before" ]] || say "$name is $state; waiting"
        before=$state
        sleep "$poll_seconds" ;;
    esac
  done
}

# Sets `outcome` of the job: nothing, running, stopped, its code, or lost where
# no answer comes.
ask() {
  local answers answer
  on_host all "$STATUS"
  outcome=lost
  answers=$("${command[@]}" 2> "$scratch/errors") || return 0
  outcome=nothing
  while read -r answer; do
    case $answer in
      *'byol_jax_job: running') outcome=running; return ;;
      *'byol_jax_job: stopped '*) outcome=stopped ;;
      *'byol_jax_job: left '*)
        answer=${answer##* }
        # Of all codes, that which says most.
        if [[ $outcome == nothing || $outcome == 0 ]] \
            || ((answer && answer <= 128 && answer != RUN_AGAIN)); then
          outcome=$answer
        fi ;;
    esac
  done <<< "$answers"
}

# As `ask`, until there is an answer or no slice: a copy must not replace the
# project under a job that only did not answer.
ask_surely() {
  local lost=0
  ask
  while [[ $outcome == lost ]] && look \
      && [[ $state == READY || $state == ACTIVE ]] && ((++lost < 20)); do
    sleep "$poll_seconds"
    ask
  done
}

deploy() {
  copy_archive
  try || return 1
  on_host all "$UNPACK"
  try || return 1
  say 'installing on all hosts'
  on_worker all install
  try || return 1
  on_worker all start "${job[@]}"
  try
}

# Shows the log until the job has left, or the slice; sets `outcome`.
follow() {
  local lines=0 line lost=0
  while true; do
    on_worker 0 follow "$((lines + 1))"
    while IFS= read -r line; do
      lines=$((lines + 1))
      echo "$line"
      [[ $line != 'error: '* ]] || error=$line
    done < <("${command[@]}" 2> "$scratch/errors")
    ask
    case $outcome in
      running) lost=0 ;;
      lost)
        if look && [[ $state != READY && $state != ACTIVE ]]; then
          return
        fi
        lost=$((lost + 1))
        ((lost < 20)) || refuse "no answer from $name, which is $state:" \
          'the same command follows again' ;;
      *) return ;;
    esac
    sleep "$poll_seconds"
  done
}

# Deletes the slice if that was asked for, and ends with CODE.
finish() {
  if [[ -n $delete_at_end ]]; then
    "${delete[@]}" || say "$name was not deleted"
  else
    say "$name is still there, and costs: $(print_delete)"
  fi
  exit "$1"
}

run() {
  local restart=0 error='' begun
  pack
  "${command[@]}"
  trap 'say "a job goes on without this; the same command follows it"
exit 130' INT
  while true; do
    get_slice
    begun=$SECONDS
    ask_surely
    if [[ $outcome != running ]]; then
      if ! deploy; then
        look || true
        if [[ $state == READY || $state == ACTIVE ]]; then
          echo "error: the job was not started on $name; see above" >&2
          finish 1
        fi
        outcome=lost
      fi
    fi
    [[ $outcome == lost ]] || follow
    case $outcome in
      0) say 'the job is done'; finish 0 ;;
      stopped) say 'the job was stopped'; finish "$RUN_AGAIN" ;;
      lost) say "$name is gone${state:+: $state}" ;;
      nothing) say "$name knows of no job" ;;
      *)
        say "the job left with code $outcome"
        if ((outcome != RUN_AGAIN && outcome <= 128)); then
          [[ -z $error ]] || say "$error"
          finish "$outcome"
        fi ;;
    esac
    ((SECONDS - begun < LASTING_SECONDS)) || restart=0
    if ((restart == restarts)); then
      say "not started again: $restarts restarts are done"
      finish "$RUN_AGAIN"
    fi
    restart=$((restart + 1))
    say "starting it again, restart $restart of $restarts"
    sleep "$poll_seconds"
  done
}

# Sets `command`: that which copies the workdir into `output`.
fetch() {
  if [[ $workdir == gs://* ]]; then
    # Unlike scp, it names no folder by itself.
    output=$output/$(basename "$workdir")
    command=(gcloud storage rsync --recursive "$workdir" "$output")
  else
    command=(
      gcloud compute tpus tpu-vm scp --recurse "$name:$workdir" "$output"
      "${where[@]}" --worker=0)
  fi
}

print_run() {
  print_command "${describe[@]}"
  print_command "${create[@]}"
  pack
  print_command "${command[@]}"
  copy_archive
  print_command "${command[@]}"
  on_host all "$UNPACK"
  print_command "${command[@]}"
  on_worker all install
  print_command "${command[@]}"
  on_worker all start "${job[@]}"
  print_command "${command[@]}"
  on_worker 0 follow 1
  print_command "${command[@]}"
  on_host all "$STATUS"
  print_command "${command[@]}"
  [[ -z $delete_at_end ]] || print_command "${delete[@]}"
}

parse_arguments "$@"
check_arguments
set_commands
command=("${delete[@]}")
case $action in
  stop) on_worker all stop ;;
  fetch) fetch ;;
esac
if [[ -n $dry_run ]]; then
  scratch=${TMPDIR:-/tmp}
  if [[ $action == run ]]; then
    print_run
  else
    print_command "${command[@]}"
  fi
  exit
fi
command -v gcloud > /dev/null \
  || refuse 'gcloud is not there: see docs/pods.md, "Before the first run"'
exec < /dev/null
if [[ $action != run ]]; then
  [[ $action != fetch ]] || mkdir -p "$output"
  exec "${command[@]}"
fi
cd "$here/.."
git rev-parse --git-dir > /dev/null 2>&1 || refuse \
  "$PWD is not a git repository, which says what is copied to the slice"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
run
