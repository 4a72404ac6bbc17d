#!/usr/bin/env bash
# What launch/tpu_pod.sh asks of each host of a TPU slice, over ssh.
#
#   tpu_worker.sh install              Python, and what a TPU needs
#   tpu_worker.sh start JOB [...]      starts JOB, which outlives the connection
#   tpu_worker.sh status               running, left or stopped CODE, or nothing
#   tpu_worker.sh follow LINE          the log from LINE on, till JOB ends
#   tpu_worker.sh stop                 asks JOB to save and leave; waits for it
#
# A job that is cut short is not started again here: one that came back before
# the others had left would find the old run.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/terminal.sh
source "$here/terminal.sh"

# Not in the project's folder, which is replaced by each new copy.
notes=$HOME/byol_jax_job
export BYOL_JAX_VENV=${BYOL_JAX_VENV:-$HOME/byol_jax_venv}

# Sets PYTHON; images of TPU VMs may have none that is new enough.
find_python() {
  local candidate
  for candidate in python3.12 python3.11 python3; do
    if "$candidate" -c 'import ensurepip, sys, venv
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      PYTHON=$(command -v "$candidate")
      return
    fi
  done
  export UV_PYTHON_PREFERENCE=only-managed  # Others may lack venv.
  python3 -m pip install --user --quiet uv
  python3 -m uv python install 3.12
  PYTHON=$(python3 -m uv python find 3.12)
}

install() {
  find_python
  export PYTHON
  # shellcheck source=launch/environment.sh
  source "$here/environment.sh" tpu
}

# After a reboot the same number may be that of another process.
is_running() {
  [[ -s $notes/pid ]] \
    && grep -q tpu_worker.sh "/proc/$(< "$notes/pid")/cmdline" 2>/dev/null
}

# Its words are read by tpu_pod.sh.
print_status() {
  if is_running; then
    echo 'byol_jax_job: running'
  elif [[ -s $notes/code ]]; then
    echo "byol_jax_job: $(cat "$notes/stopped" 2>/dev/null || echo left)" \
      "$(< "$notes/code")"
  elif [[ -s $notes/stopped ]]; then
    echo 'byol_jax_job: stopped 75'  # Before there was a job to leave.
  elif [[ -s $notes/pid ]]; then
    echo 'byol_jax_job: left 137'  # It could not even say so.
  else
    echo 'byol_jax_job: nothing'
  fi
}

start() {
  mkdir -p "$notes"
  if ! is_running; then
    rm -f "$notes/code" "$notes/stopped"
    : > "$notes/log"
    setsid nohup bash "${BASH_SOURCE[0]}" work "$@" \
      < /dev/null >> "$notes/log" 2>&1 &
    echo "$!" > "$notes/pid"
  fi
  print_status
}

# In the background, as `start` makes it.
work() {
  local code=0
  # Of what fails before there is a job; supervise has traps of its own.
  trap 'echo "$?" > "$notes/code"' EXIT
  trap 'exit 143' INT TERM HUP
  require_job "$@"
  job=("$@")
  # shellcheck source=launch/supervise.sh
  source "$here/supervise.sh"
  install
  choose_command() {
    # shellcheck disable=SC2034
    command=(env "JAX_PLATFORMS=tpu,cpu" python -m "${job[@]}")
  }
  supervise 1 0 30 || code=$?
  echo "$code" > "$notes/code"
  exit "$code"
}

follow() {
  if is_running; then
    tail -n "+$1" --sleep-interval=0.5 --pid="$(< "$notes/pid")" -f "$notes/log"
  else
    tail -n "+$1" "$notes/log"
  fi
}

stop() {
  if is_running; then
    echo stopped > "$notes/stopped"
    kill "$(< "$notes/pid")"
    while is_running; do sleep 0.5; done
  fi
  print_status
}

case ${1:-} in
  --help) print_usage ;;
  install) install ;;
  start | work) "$@" ;;
  status) print_status ;;
  follow) require_number LINE "${2:-}" 1; follow "$2" ;;
  stop) stop ;;
  *) refuse "'${1:-}': expected install, start, status, follow or stop" ;;
esac
