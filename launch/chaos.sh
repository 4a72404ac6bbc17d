#!/usr/bin/env bash
# Causes every trouble that a run must survive; prints a row for each.
#
#   ./launch/chaos.sh [--seed=0] [--only=NAME,...] [--list] [--short]
#       [--workdir=DIR] [--json=FILE]
#
# Kills, signals, lost processes, damaged checkpoints, full disks, NaN, images
# that rot, ...: see docs/trouble.md. --list names them; --short causes each
# less often. The runs are tiny and kept in DIR; by default in a new folder,
# which is removed if all is well. The exit code is 1 if anything was lost or
# not survived. On two CPU cores it takes 40 to 50 minutes.
set -euo pipefail

where=$PWD
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/terminal.sh
source "$here/terminal.sh"
arguments=()
for argument; do
  case $argument in
    --help) print_usage; exit ;;
    --workdir=* | --json=*)
      path=${argument#*=}
      [[ $path == /* ]] || path=$where/$path
      argument=${argument%%=*}=$path ;;
  esac
  arguments+=("$argument")
done

# shellcheck source=launch/environment.sh
source "$here/environment.sh" active
cd "$here/.."

# Small disks are mounted, which takes root, or a namespace where one is it.
enter=()
if ((EUID)) && unshare --user --map-root-user --mount true 2>/dev/null; then
  enter=(unshare --user --map-root-user --mount)
fi
exec ${enter[@]+"${enter[@]}"} env JAX_PLATFORMS=cpu \
  python -m tests.chaos ${arguments[@]+"${arguments[@]}"}
