# shellcheck shell=bash
# How the scripts talk: usage, errors and commands; sourced by them.

# Prints the comment at the head of this script, without its hashes.
print_usage() {
  sed -n '2,/^[^#]/{/^#/!d; s/^# \{0,1\}//; p;}' "$0"
}

say() {
  echo "${0##*/}: $*" >&2
}

# Ends the script on a user's slip.
refuse() {
  echo "error: $*" >&2
  exit 1
}

# Prints a command so that a shell would read it back as it is.
print_command() {
  local words
  printf -v words '%q ' "$@"
  echo "${words% }"
}

# Refuses a VALUE, given as NAME, that is no whole number from LOWEST on.
require_number() {
  local name=$1 value=$2 lowest=$3
  if [[ ! $value =~ ^[0-9]{1,9}$ ]] || ((10#$value < lowest)); then
    refuse "$name is '$value', expected a whole number from $lowest"
  fi
}

# Refuses arguments that do not begin with a job.
require_job() {
  (($#)) || refuse 'no job, expected one such as byol_jax.pretrain'
  if [[ ! $1 =~ ^[A-Za-z_][A-Za-z0-9_.]*$ ]]; then
    refuse "'$1' is no job, expected a module such as byol_jax.pretrain"
  fi
}
