#!/bin/bash
# sbatch --nodes 4 --gres gpu:8 recipes/accelerate/slurm.sh recipes/pretrain_jmi.py --method simclr …
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --signal=TERM@120
# A job that is requeued goes on where it was: the same command with --resume_from_checkpoint latest.
set -eu
export MAIN_HOST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun bash -c 'accelerate launch --config_file recipes/accelerate/nodes.yaml --num_machines $SLURM_NNODES \
    --num_processes $((8 * SLURM_NNODES)) --machine_rank $SLURM_NODEID --main_process_ip $MAIN_HOST "$@"' bash "$@"
