# shellcheck shell=bash
# Makes and enters the environment; sourced by the other scripts.
#
#   source launch/environment.sh EXTRAS     # such as dev, or dev,cuda
#   source launch/environment.sh auto       # dev, and what the devices need
#   source launch/environment.sh active     # nothing if JAX is there, else auto
#
# Uses Python 3.11 or 3.12 ($PYTHON, if that is set), in .venv of the project
# (or $BYOL_JAX_VENV). What is installed already is left alone until
# requirements.txt or setup.py change; extras add up.

_find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.12 \
      python3.11; do
    if "$candidate" -c 'import sys; v = sys.version_info[:2]
sys.exit(not (3, 11) <= v <= (3, 12))' \
        2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  echo 'error: found no Python 3.11 or 3.12; install one with its venv' \
    'module, and set PYTHON=/path/to/it if it is not on the PATH' >&2
  return 1
}

_find_extras() {
  if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    echo 'found an NVIDIA GPU' >&2
    echo dev,cuda
  elif compgen -G '/dev/accel*' >/dev/null; then
    echo 'found a TPU' >&2
    echo dev,tpu
  else
    echo dev
  fi
}

_enter_environment() {
  local extras=$1 project venv requirements stamp python
  if [[ $extras == active ]]; then
    if python -c 'import importlib.util as i, sys; sys.exit(
not i.find_spec("jax"))' 2>/dev/null; then
      return
    fi
    extras=auto
  fi
  if [[ $extras == auto ]]; then
    extras=$(_find_extras)
  fi
  project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  venv=${BYOL_JAX_VENV:-$project/.venv}
  requirements=$(cat "$project/requirements.txt" "$project/setup.py" | cksum)
  stamp="$extras $requirements"
  if ! grep --quiet --line-regexp --fixed-strings -- "$stamp" \
      "$venv/.byol_jax" 2>/dev/null; then
    python=$(_find_python) || return 1
    echo "installing into $venv with $("$python" --version)"
    "$python" -m venv "$venv" || return 1
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --editable "${project}[$extras]" || return 1
    stamp=$(grep --fixed-strings -- " $requirements" "$venv/.byol_jax" \
      2>/dev/null; echo "$stamp")
    echo "$stamp" > "$venv/.byol_jax"
  fi
  # shellcheck disable=SC1091
  source "$venv/bin/activate"
  cd "$project" || return 1
}

_enter_environment "$1" || exit 1
