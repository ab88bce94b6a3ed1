#!/bin/bash
# Four nodes with eight GPUs each:   sbatch recipes/whisper_qwen/slurm.sh whisper_qwen/large --deepspeed zero2 KEY=VALUE ...
# The working folder (rows, runs) must be one that all nodes see. Given again, the job goes on where it was stopped.
#SBATCH --job-name=audiollm
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
set -euo pipefail

export OMP_NUM_THREADS=8
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node 8 \
    --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-backend c10d \
    --rdzv-endpoint "$first:29500" \
    -m audiollm train "$@"
