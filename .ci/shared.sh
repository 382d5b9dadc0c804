# shellcheck shell=bash
# What several steps use. The variable `scratch` is the step's own directory, which is deleted at the end of the run.

# The package and its binary, the deployed function, and the stack that .aws/deploy makes.
readonly FUNCTION=kus-aws-backend
# The local stack's place in a target directory.
readonly LOCAL_EXAMPLE=debug/examples/local

background=()

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

# Fails unless $2 and $3 are equal; $1 says what they are.
expect() {
  [ "$2" = "$3" ] || fail "$1: expected '$3', but got '$2'"
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Starts a command in the background with its output in the file $1. If $2 is a number, waits until the command listens on
# that port, otherwise until it has printed $2.
start() {
  local log=$1 sign=$2 pid
  shift 2
  # Job control puts the command into a process group of its own, so that end_background can end all its processes.
  set -m
  "$@" </dev/null >"$log" 2>&1 &
  pid=$!
  set +m
  background+=("$pid")
  for _ in $(seq 240); do
    case $sign in
      *[!0-9]*) if grep -q "$sign" "$log"; then return; fi ;;
      *) if (: <"/dev/tcp/127.0.0.1/$sign") 2>/dev/null; then return; fi ;;
    esac
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.5
  done
  cat "$log"
  fail "this ended or did not get ready in two minutes: $*"
}

end_background() {
  local pid
  for pid in "${background[@]}"; do
    kill -- "-$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  background=()
}

# Sets `local_stack`, the path of the built program.
build_local_stack() {
  cargo build --locked --example "${LOCAL_EXAMPLE##*/}"
  local_stack=$(realpath "${CARGO_TARGET_DIR:-target}/$LOCAL_EXAMPLE")
}

# Runs a command without the variables of this machine and where there is no .env.
isolated() {
  env -i --chdir="$scratch" "$@"
}
