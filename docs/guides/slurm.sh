#!/bin/bash
#SBATCH --job-name=matchlib
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append

# One command starts the run and restarts it: --resume goes on from the last checkpoint. SIGTERM, two minutes before the end of the time,
# lets matchlib finish its step and write. The job then queues itself again until evaluation.json is there, at most 50 times, and not if it
# never came to a checkpoint: wrong settings do not get better. NOT YET RUN on a cluster.
set -euo pipefail
run=${1:?folder of the run}
config=${2:?file of settings}

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" --max-restarts 3 \
  --rdzv-backend c10d --rdzv-endpoint "$head:29400" --rdzv-id "$SLURM_JOB_ID" \
  -m matchlib_cli distill --config "$config" --out "$run" --resume || status=$?

if [ ! -f "$run/evaluation.json" ] && compgen -G "$run/checkpoints/*.safetensors" > /dev/null && [ "${SLURM_RESTART_COUNT:-0}" -lt 50 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "${status:-0}"
