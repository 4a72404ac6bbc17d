#!/usr/bin/env bash
# Runs a grid of BYOL's ablations on CIFAR-10 and puts them side by side.
# On two CPU cores with nothing else to do a run takes about 2.7 minutes, a seed
# of the whole grid about 35.
#
#   ./launch/ablations.sh [--workdir=DIR] [--output=PATH] [--seeds="0 1"]
#       [--names="byol tau_0 ..."] [--dry_run] [--config.FIELD=VALUE ...]
#
# Each run is configs/ablations.py:NAME,cifar10 in DIR/NAME-SEED, and its words
# go to log.txt there. What has a result is skipped and what was cut short
# continues, so running it again goes on where it stopped. A DIR is for one set
# of --config. overrides: others would mix unlike runs in one table. A run that
# fails, such as one that diverges, leaves its reason in failed.txt and does not
# stop the others; the next time it is tried again. All names come with one
# seed before the first comes with the next. Then byol_jax.compare writes
# PATH.md, PATH.png and PATH.json. The exit code is 1 if a run failed. --dry_run
# prints the commands and starts none.
set -euo pipefail

# In the order of the table; the first is what the others are compared with.
# `python -m configs.ablations` explains these names, and lists many more.
grid=(
  byol tau_0 tau_1 no_predictor no_predictor_no_target simclr beta_1
  crops_only no_color norms_none norms_affine_init norms_group_ws norms_layer)

workdir=runs/ablations
output=docs/ablations
names=("${grid[@]}")
seeds=(0 1)
dry_run=
told=''  # what was asked for, for the page; where the files are is not told
overrides=()
for argument; do
  case $argument in
    --workdir=*) workdir=$(realpath -m "${argument#*=}"); continue ;;
    --output=*) output=$(realpath -m "${argument#*=}"); continue ;;
    --dry_run) dry_run=yes; continue ;;
    --names=*) read -r -a names <<< "${argument#*=}" ;;
    --seeds=*) read -r -a seeds <<< "${argument#*=}" ;;
    --config.seed=*)
      echo "error: unexpected argument '$argument': expected --seeds" >&2
      exit 1 ;;
    --config.*=*) overrides+=("$argument") ;;
    *)
      echo "error: unexpected argument '$argument': expected --workdir=DIR," \
        '--output=PATH, --names="...", --seeds="...", --dry_run or' \
        '--config.FIELD=VALUE' >&2
      exit 1 ;;
  esac
  if [[ $argument == *[[:space:]]* ]]; then
    argument="${argument%%=*}=\"${argument#*=}\""
  fi
  told+=" $argument"
done
cd "$(dirname "$0")/.."
total=$((${#names[@]} * ${#seeds[@]}))

refuse() {
  echo "error: $*" >&2
  exit 1
}

# Before the first run, not after hours.
check_arguments() {
  local seed
  ((total)) || refuse 'no runs: expected names in --names and numbers in --seeds'
  for seed in "${seeds[@]}"; do
    [[ $seed =~ ^[0-9]+$ ]] \
      || refuse "--seeds has '$seed', expected numbers from 0, like \"0 1\""
  done
  python -m configs.ablations --check "${names[@]/%/,cifar10}" || exit 1
}

# Notes the overrides in the workdir, or refuses if it holds runs of others.
check_overrides() {
  local file=$workdir/overrides.txt new
  new=$(printf '%s\n' ${overrides[@]+"${overrides[@]}"} | sort)
  mkdir -p "$workdir"
  if [[ -e $file && $(< "$file") != "$new" ]] \
      && compgen -G "$workdir/*/config.json" > /dev/null; then
    refuse "the runs in $workdir have other overrides" \
      "($(tr '\n' ' ' < "$file")): give these, or another --workdir"
  fi
  echo "$new" > "$file"
}

child=
stop() {
  trap - INT TERM
  if [[ -n $child ]]; then
    kill "$child" 2>/dev/null || true
    wait "$child" || true
  fi
  echo 'stopped; run it again to go on'
  exit 130
}

# Runs NAME with SEED, unless it has a result, and says what became of it.
run() {
  local name=$1 seed=$2 directory="$workdir/$1-$2" code=0 reason
  local command=(
    python -m byol_jax.pretrain "--config=configs/ablations.py:$name,cifar10"
    "--workdir=$directory" "--config.seed=$seed"
    ${overrides[@]+"${overrides[@]}"})
  local where="[$count/$total, $((SECONDS / 60)) min] $name, seed $seed:"
  if [[ -e $directory/result.json ]]; then
    echo "$where has a result"
    return
  fi
  if [[ -n $dry_run ]]; then
    printf '%q ' "${command[@]}"
    echo
    return
  fi
  mkdir -p "$directory"
  rm -f "$directory/failed.txt"
  echo "$where runs, see $directory/log.txt"
  # In the background, so that a signal ends the wait at once.
  "${command[@]}" > "$directory/log.txt" 2>&1 &
  child=$!
  wait "$child" || code=$?
  child=
  if ((code)); then
    reason=$(grep '^error: ' "$directory/log.txt" | tail -n 1) \
      || reason="error: code $code: $(tail -n 1 "$directory/log.txt")"
    echo "$reason" > "$directory/failed.txt"
    echo "  $reason"
    failed=$((failed + 1))
  fi
}

if [[ -z $dry_run ]]; then
  # shellcheck source=launch/environment.sh
  source launch/environment.sh auto
  check_arguments
  check_overrides
fi
# What two runs compile alike is compiled once: a second seed starts sooner.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$workdir/.compiled}

trap stop INT TERM
count=0
failed=0
for seed in ${seeds[@]+"${seeds[@]}"}; do
  for name in ${names[@]+"${names[@]}"}; do
    count=$((count + 1))
    run "$name" "$seed"
  done
done

first=$(IFS=,; echo "${grid[*]}")
compare=(
  python -m byol_jax.compare "--runs=$workdir" "--output=$output"
  "--first=$first" "--command=./launch/ablations.sh$told")
if [[ -n $dry_run ]]; then
  printf '%q ' "${compare[@]}"
  echo
else
  "${compare[@]}"
fi
if ((failed)); then
  echo "$failed of $total runs failed: their failed.txt says why"
  exit 1
fi
