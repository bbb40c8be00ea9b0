#!/usr/bin/env bash
# One search on several SLURM nodes: a Ray cluster that lives as long as the job.
#
#   sbatch deploy/slurm.sh CONFIG OUT [flags that `search` and `resume` share]
#
# Jobs that share a node do not meet: Ray's ports are whatever the kernel has free, its files lie in a folder of the job,
# its token is the job's. Nothing here says `ray stop`, which would end the Ray of other jobs on the node, too.
#
# STORAGE (environment) is the study's journal or database URL; OUT/study.journal by default.
#
# Checked with shellcheck; its body is run by tests/deploy/test_slurm.py with stand-ins for srun and scontrol, Ray and
# the search being real. It has not run on a SLURM cluster.
#
#SBATCH --job-name=headmask
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=12:00:00
#SBATCH --output=headmask-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Before the time is over, and before a preemption, the search saves what it has.
#SBATCH --signal=B:TERM@180
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: sbatch deploy/slurm.sh CONFIG OUT [flags that search and resume share]" >&2
    exit 2
fi
config=$1 out=$2
shift 2
storage=${STORAGE:-$out/study.journal}
scratch=/tmp/ray-$SLURM_JOB_ID
start_s=120

RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")

step=(srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK")

# In the background only: takes its shell's place, so that it is what a signal ends.
start_ray() {
    exec "${step[@]}" --nodelist="$1" ray start --block --temp-dir "$scratch" --num-cpus "$SLURM_CPUS_PER_TASK" \
        --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --dashboard-agent-listen-port 0 "${@:2}"
}

finish() {
    trap - EXIT
    kill "${ray[@]}" 2>/dev/null || true
    wait "${ray[@]}" 2>/dev/null || true
    for node in "${nodes[@]}"; do
        "${step[@]}" --nodelist="$node" rm -rf "$scratch" || true
    done
}
ray=()
trap finish EXIT

# This script runs on the first node. Port 0 is one that the kernel has free; Ray writes down which.
free_port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
start_ray "${nodes[0]}" --head --port 0 --ray-client-server-port "$free_port" --include-dashboard false &
ray+=($!)
until [ -s "$scratch/ray_current_cluster" ]; do
    if ! kill -0 "${ray[0]}" 2>/dev/null || [ "$SECONDS" -ge "$start_s" ]; then
        echo "Ray's head did not start within $start_s s on ${nodes[0]}" >&2
        exit 75
    fi
    sleep 1
done
address=$(<"$scratch/ray_current_cluster")
for node in "${nodes[@]:1}"; do
    start_ray "$node" --address "$address" &
    ray+=($!)
done

"${SLURM_SUBMIT_DIR:-.}/deploy/search-or-resume.sh" "$config" "$out" "$storage" --address "$address" "$@" &
driver=$!
trap 'kill -TERM "$driver"' TERM
code=0
wait "$driver" || code=$?
# A signal that is handled ends the wait before the driver has ended.
while kill -0 "$driver" 2>/dev/null; do
    code=0
    wait "$driver" || code=$?
done

if [ "$code" -eq 130 ]; then
    finish
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
