# shellcheck shell=bash
# Runs processes that need each other: restarts them together, leaves none
# behind. Sourced, after terminal.sh.
#
#   supervise COUNT RESTARTS GRACE
#
# calls `choose_command I`, which sets the array `command`, for I from 0 to
# COUNT - 1, starts what it says, and returns once none of it runs. Process 0
# writes where the script does; the lines of the others go to stderr, behind
# their number: so stdout is that of a single process, and the last words of
# one that dies stand beside what happened then.
#
# | how a process ends | what happens |
# |---|---|
# | 0 | the others go on |
# | 75, or by a signal | the others are stopped, all start again, RESTARTS times |
# | anything else, such as 1: a user's error | the others are stopped |
#
# RESTARTS is counted anew once all have run for an hour, so that a long run
# outlives any number of failures far apart.
#
# To be stopped is SIGTERM, and SIGKILL after GRACE seconds. SIGTERM, SIGINT
# and SIGHUP (as SIGTERM) are passed on, each time anew, and then nothing is
# started again; GRACE counts from when the first process has left, or from a
# second signal. Returns 0 if all did, 75 if they were stopped and can go on,
# and else the code of the failure, 128 + N for signal N.

readonly RUN_AGAIN=75  # EX_TEMPFAIL: the same command goes on
readonly POLLS_PER_SECOND=5  # see _pause
readonly LASTING_SECONDS=${LASTING_SECONDS:-3600}  # tests have less time

pids=()
codes=()  # empty while the process runs
readers=()
scratch=
asked=  # the last signal to this script
asks=0

_ask() {
  asked=$1
  asks=$((asks + 1))
}

# Writes lines with a number before them, until nobody can write any more.
_read_lines() {
  local line
  trap '' INT TERM HUP
  while IFS= read -r line || [[ -n $line ]]; do
    printf '[%s] %s\n' "$1" "$line" >&2
  done
}

# Starts process I in a group of its own: Ctrl-C in a terminal reaches this
# script alone, which passes it on once, and what a process starts can be
# found when it is gone.
_start() {
  local i=$1
  command=()
  choose_command "$i"
  codes[i]=
  if ((i)); then
    [[ -p $scratch/$i ]] || mkfifo "$scratch/$i" || exit 1
    _read_lines "$i" < "$scratch/$i" &
    readers[i]=$!
  fi
  # A child with traps would lose a signal that came before it is the command.
  trap - INT TERM HUP
  set -m
  if ((i)); then
    "${command[@]}" < /dev/null > "$scratch/$i" 2>&1 &
  else
    "${command[@]}" < /dev/null &
  fi
  pids[i]=$!
  set +m
  _trap_signals
}

_trap_signals() {
  trap '_ask INT' INT
  trap '_ask TERM' TERM
  trap '_ask HUP' HUP
}

# Between two looks at the processes. Bash would tell of those that are killed
# meanwhile, in words of its own.
_pause() {
  { sleep 0.2; } 2>/dev/null
}

# Sends a signal to the processes that run; their children are their own.
_signal() {
  local i
  for i in "${!pids[@]}"; do
    if [[ -z ${codes[i]} ]]; then
      kill -s "$1" -- "${pids[i]}" 2>/dev/null || true
    fi
  done
}

_count_running() {
  local i
  running=0
  for i in "${!pids[@]}"; do
    [[ -n ${codes[i]} ]] || running=$((running + 1))
  done
}

_describe() {
  if (($1 > 128)); then
    echo "was killed by signal $(($1 - 128)) ($(kill -l $(($1 - 128))))"
  elif (($1 == RUN_AGAIN)); then
    echo "left with code $1, to be run again"
  else
    echo "left with code $1"
  fi
}

# Kills what process I has started, if that outlived it.
_kill_group() {
  kill -s KILL -- "-${pids[$1]}" 2>/dev/null || true
}

# Notes who has ended since the last time, and how.
_reap() {
  local i code was_told=$told
  for i in "${!pids[@]}"; do
    if [[ -n ${codes[i]} ]] || kill -0 "${pids[i]}" 2>/dev/null; then
      continue
    fi
    code=0
    wait "${pids[i]}" 2>/dev/null || code=$?
    codes[i]=$code
    _kill_group "$i"
    has_left=yes
    ((code)) || continue
    say "process $i (pid ${pids[i]}) $(_describe "$code")"
    if ((code == RUN_AGAIN)); then
      left=$code
    elif ((code <= 128)); then
      refused=${refused:-$code}
    elif [[ -z $was_told ]]; then
      # Who is killed after that has only obeyed.
      killed=${killed:-$code}
    fi
  done
}

# Passes signals on, and stops all when one fails, until none runs.
_watch() {
  local grace=$1 passed_on=0 polls=0
  told='' has_left='' left='' refused='' killed=''
  while _count_running; ((running)); do
    if ((passed_on < asks)); then
      passed_on=$((passed_on + 1))
      say "passing SIG$asked on to $running processes"
      _signal "${asked/HUP/TERM}"
    fi
    _reap
    _count_running
    if [[ -z $told && -n $left$refused$killed ]] && ((!asks && running)); then
      told=yes
      say "stopping the other $running; in $grace s they are killed"
      _signal TERM
    fi
    # Counted, as clocks jump.
    if [[ -n $told ]] || ((asks > 1)) || { ((asks)) && [[ -n $has_left ]]; }
    then
      polls=$((polls + 1))
    fi
    if ((polls == grace * POLLS_PER_SECOND && running)); then
      say "killing $running that did not stop in $grace s"
      _signal KILL
    fi
    _pause
  done
}

_stop_reading() {
  local reader polls=0
  for reader in ${readers[@]+"${readers[@]}"}; do
    # They end by themselves, unless something kept a pipe open.
    while kill -0 "$reader" 2>/dev/null && ((polls++ < POLLS_PER_SECOND)); do
      _pause
    done
    kill -s KILL "$reader" 2>/dev/null || true
    wait "$reader" 2>/dev/null || true
  done
  readers=()
}

# Whatever ends this script, but SIGKILL, ends what it has started.
_leave_none() {
  local pid
  trap '' INT TERM HUP
  # Not by `pids`: a signal may have come before one was noted.
  for pid in $(jobs -p); do
    kill -s KILL -- "-$pid" 2>/dev/null || true
  done
  _stop_reading
  [[ -z $scratch ]] || rm -rf "$scratch"
}

supervise() {
  local count=$1 restarts=$2 grace=$3 restart=0 which=it i begun
  ((count == 1)) || which="all $count"
  scratch=$(mktemp -d) || return 1
  trap _leave_none EXIT
  trap : PIPE  # Where nobody listens any more, the processes still matter.
  _trap_signals
  while true; do
    begun=$SECONDS
    for ((i = 0; i < count; i++)); do _start "$i"; done
    _watch "$grace"
    _stop_reading
    if [[ -n $killed ]] && ((!asks)); then
      refused=  # It may have failed because of that.
    fi
    if ((asks)) || [[ -z $refused$killed$left ]]; then
      return "${refused:-${killed:-${left:-0}}}"
    fi
    if [[ -n $refused ]]; then
      say "not started again: code $refused would come again"
      return "$refused"
    fi
    ((SECONDS - begun < LASTING_SECONDS)) || restart=0
    if ((restart == restarts)); then
      ((!restarts)) || say "not started again: $restarts restarts are done"
      return "${killed:-$left}"
    fi
    restart=$((restart + 1))
    say "starting $which again, restart $restart of $restarts"
  done
}
