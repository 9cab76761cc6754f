#!/usr/bin/env bash
# A sweep on several nodes of a Slurm cluster: `sbatch docs/cluster/slurm.sh sweeps/coef.yaml --data-root DIR`.
# Submit it again to continue after a time limit: it passes --resume once there is something to continue.
#SBATCH --job-name=rdistill
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --output=rdistill-%j.log
set -euo pipefail

sweep=${1:?a sweep file, then options of rdistill sweep}
shift
work_dir=${RDISTILL_WORK_DIR:-work_dirs/sweeps/$(basename "$sweep" .yaml)}   # on a disk that all nodes share

# A token of this job alone: nobody else on the nodes may use its cluster. Not as an argument, which `ps` shows.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID RAY_USAGE_STATS_ENABLED=0
export OMP_NUM_THREADS=4

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000))   # two jobs on one node do not meet

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" bash -c \
  "mkdir -p $RAY_TMPDIR && exec ray start --head --block --node-ip-address=$head_ip --port=$port \
   --num-cpus=$SLURM_CPUS_PER_TASK --num-gpus=${SLURM_GPUS_ON_NODE:-0}" &
sleep 20
if ((${#nodes[@]} > 1)); then
  srun --overlap --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --exclude="$head" bash -c \
    "mkdir -p $RAY_TMPDIR && exec ray start --block --address=$head_ip:$port \
     --num-cpus=$SLURM_CPUS_PER_TASK --num-gpus=${SLURM_GPUS_ON_NODE:-0}" &
  sleep 20
fi

resume=()
[[ -e $work_dir/study.json ]] && resume=(--resume)
RAY_ADDRESS=$head_ip:$port rdistill sweep "$sweep" --work-dir "$work_dir" "${resume[@]}" "$@"
