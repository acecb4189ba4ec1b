#!/usr/bin/env bash
# One run of train.py on the GPUs of several machines, under SLURM. From the suite's folder:
#
#     sbatch --nodes 2 --gpus-per-node 4 workflow/slurm/multiworker.sh --data cells.h5ad --out OUT
#
# Each node has one process, a worker, with all GPUs that SLURM gives it there; 2, 4 or 8 GPUs in
# all. The folder and the data must be visible on all nodes under the same paths. Ten minutes before
# the time limit SLURM asks all workers to stop: the first one then writes a checkpoint, and the same
# command with --resume goes on from there.
#SBATCH --job-name=sctag
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@600
#SBATCH --output=sctag-%j.log
set -euo pipefail

root=${SLURM_SUBMIT_DIR:?start it with sbatch from the folder of the suite}
python=${PYTHON:-$root/.venv/bin/python}
# A worker that ends with an error ends the others, which would wait for it.
exec srun --label --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    "$python" "$root/train.py" --strategy multiworker "$@"
