#!/bin/bash
# A study on Slurm: head and workers of a Ray cluster in one allocation.
#
#   sbatch experiments/slurm.sh [EXPERIMENT.py] [flags of kdtune.search]
#   sbatch experiments/slurm.sh --data /shared/photos --out /shared/runs --alpha 0 0.5 1
#
# Change the lines marked <-. All nodes must see the Python environment, the data and --out.
# Each node runs one `ray start`; the first also runs the study. When the time is over, or at
# `scancel --batch --signal=TERM JOB`, the study stops in order and the job ends with exit code 130:
# the same sbatch command resumes it. docs/clusters.md has more.

#SBATCH --job-name=kdtune
#SBATCH --nodes=2                # <-
#SBATCH --gpus-per-node=4        # <- remove the line for CPUs alone
#SBATCH --cpus-per-task=32       # <- cores of each node that the study may use
#SBATCH --mem=64G                # <- of each node
#SBATCH --time=24:00:00          # <-
#SBATCH --ntasks-per-node=1
#SBATCH --output=%x-%j.log
#SBATCH --signal=B:TERM@120
#SBATCH --no-kill

# source ~/venv/bin/activate     # <- unless it is active where sbatch is called; an image made with
#                                     Dockerfile has it in /opt/venv (sites differ in how jobs run images)

JOIN_SECONDS=300 # in which all nodes must have joined
STOP_SECONDS=40  # after which Ray's processes are left to Slurm, which kills them

set -u
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # Ray's 30 s of waiting are for web services
unset RAY_ADDRESS

fail() {
  echo "error: $1" >&2
  exit "${2:-1}"
}

# Wait for a process of this shell, whatever signals come meanwhile; return its exit code.
await() {
  local code last
  while
    wait "$1"
    code=$?
    [ "$code" -gt 128 ] && kill -0 "$1" 2>/dev/null
  do :; done
  wait "$1" 2>/dev/null # it may have ended between the two commands
  last=$?
  [ "$last" = 127 ] || code=$last
  return "$code"
}

# Run a command in the background, since bash runs traps only between commands in the foreground.
run() {
  [ -z "$stopped" ] || return 143
  "$@" &
  child=$!
  await "$child"
}

# Run a node of the Ray cluster until SIGTERM: ray_node FOLDER FLAGS...
# Ray's files are in FOLDER ("": a new one), which only the user can read and which is removed. Ray
# takes free ports, since other jobs may use the node, and the job's cores and GPUs, not the node's.
# Ray's agents live on for seconds after `ray start`: its process group (setsid) is killed.
ray_node() {
  local folder=$1 ray='' told='' code
  shift
  umask 077
  trap 'told=yes; [ -z "$ray" ] || kill -TERM "$ray"' TERM INT
  [ -n "$folder" ] || folder=$(mktemp -d "${TMPDIR:-/tmp}/slurm-kdtune-XXXXXX") || return
  setsid ray start "$@" --block --temp-dir="$folder/ray" --node-name="$SLURMD_NODENAME" \
    --num-cpus="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
    --object-store-memory=200000000 --dashboard-agent-listen-port=0 --disable-usage-stats \
    >"$folder/log" 2>&1 &
  ray=$!
  [ -z "$told" ] || kill -TERM "$ray" # the signal came before its process
  await "$ray"
  code=$?
  for _ in {1..50}; do kill -KILL -- "-$ray" 2>/dev/null || break; sleep 0.1; done
  [ -e "$folder/ray/ray_current_cluster" ] || sed "s/^/$SLURMD_NODENAME: /" "$folder/log" >&2
  rm -rf "$folder"
  [ -n "$told" ] || return "$code" # ray start ends with 1 at SIGTERM
}

# Start ray_node on a node, as a job step of its own: a lost node ends no other.
start_node() {
  srun --nodes=1 --ntasks=1 --nodelist="$1" --export=ALL \
    --cpus-per-task="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" \
    bash -c "$(declare -f await ray_node); ray_node \"\$@\"" ray_node "${@:2}" &
  steps+=($!)
}

# Wait until all nodes have joined: python -c "$JOIN" ADDRESS SECONDS NODE=PID_OF_SRUN ...
JOIN='
import os, sys, time, ray
address, seconds, *pairs = sys.argv[1:]
steps = dict(pair.split("=") for pair in pairs)
ray.init(address=address, log_to_driver=False, logging_level="ERROR")
until = time.monotonic() + float(seconds)
while missing := sorted({*steps} - {node["NodeName"] for node in ray.nodes() if node["Alive"]}):
    if ended := [node for node in missing if not os.path.exists(f"/proc/{steps[node]}")]:
        sys.exit("error: Ray has ended on " + ", ".join(ended))
    if time.monotonic() > until:
        sys.exit("error: Ray did not start in " + seconds + " s on " + ", ".join(missing))
    time.sleep(1)
'

stop() {
  stopped=yes
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}

# End the steps. A signal to srun would kill them at once; scancel lets ray_node end in order.
finish() {
  local code=$? left=$STOP_SECONDS
  trap '' TERM INT
  [ "${#steps[@]}" = 0 ] || scancel --signal=TERM "$SLURM_JOB_ID"
  while [ -n "$(jobs -rp)" ] && [ "$left" -gt 0 ]; do
    sleep 1
    left=$((left - 1))
  done
  rm -rf "$folder"
  exit "$code"
}

[ -n "${SLURM_JOB_NODELIST:-}" ] || fail "slurm.sh must be started by sbatch" 2
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
[ "${nodes[0]:-}" = "$SLURMD_NODENAME" ] || fail "slurm.sh must run on the first node of its job" 2
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))') || fail "no Python" 2
export RAY_AUTH_TOKEN # in the environment of the job's processes alone

child='' stopped='' steps=()
folder=$(mktemp -d "${TMPDIR:-/tmp}/slurm-kdtune-XXXXXX") || fail "no temporary folder"
trap stop TERM INT
trap finish EXIT

# port 10001, Ray's default for its client server, may be in use; it cannot be left to Ray
free_port=$(python -c 'import socket; s = socket.create_server(("", 0)); print(s.getsockname()[1])')
start_node "${nodes[0]}" "$folder" --head --port=0 --include-dashboard=false \
  --ray-client-server-port="$free_port"
until [ -s "$folder/ray/ray_current_cluster" ]; do
  kill -0 "${steps[0]}" 2>/dev/null || fail "the head of the Ray cluster did not start"
  run sleep 0.5 || exit
done
address=$(<"$folder/ray/ray_current_cluster")
pairs=("${nodes[0]}=${steps[0]}")
for node in "${nodes[@]:1}"; do
  start_node "$node" "" --address="$address"
  pairs+=("$node=${steps[-1]}")
done
run python -c "$JOIN" "$address" "$JOIN_SECONDS" "${pairs[@]}" || exit
run python -m kdtune.search --address "$address" "$@"
