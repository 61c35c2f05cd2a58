#!/usr/bin/env bash
# The leaderboard on the nodes of a SLURM job: sbatch --nodes 4 scripts/configs/cluster/slurm_ray.sh
# One Ray node starts on each machine, the command runs on the first, and everything ends with it. Not tried on a real cluster.
#SBATCH --job-name=plasticity
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=08:00:00
set -euo pipefail
ulimit -c 0
export RAY_AUTH_MODE=token OMP_NUM_THREADS=1
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN # a token of this job alone; srun hands it to all nodes
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=6379

srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --node-ip-address="$head" --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats --block &
sleep 20
if ((${#nodes[@]} > 1)); then
  srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --exclude="$head" \
    ray start --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats --block &
fi
sleep 20
plasticity leaderboard --ray_address "$head:$port" --workers $((${#nodes[@]} * SLURM_CPUS_PER_TASK)) \
  --output "${RUNS:-runs}/leaderboard/leaderboard.jsonl"
