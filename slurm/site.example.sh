# shellcheck shell=bash disable=SC2034
# The settings of your cluster: cp slurm/site.example.sh slurm/site.sh, and uncomment what applies. Every job sources
# it on its first node, and its exports reach all nodes; `open-r1 submit` sources it on the login node. Before plain
# sbatch, source it in your shell if it sets SBATCH variables. OPEN_R1_SITE names another file. If the file returns an
# error (`return 1`, or its last command fails), nothing starts.

# Partition and account: sbatch's own variables; options on its command line override them.
#export SBATCH_PARTITION=gpu
#export SBATCH_ACCOUNT=my-project
#export SBATCH_QOS=normal

# The Python environment, on a file system that compute nodes share. The default is .venv of this checkout.
#module load cuda/12.8 || return 1
#export OPEN_R1_PYTHON=/shared/envs/open-r1/bin/python

# Or a container with its own Python. Pyxis and enroot:
#OPEN_R1_SRUN=(--container-image=/shared/images/open-r1.sqsh --container-mounts="$PWD:$PWD" --container-workdir="$PWD")
#export OPEN_R1_PYTHON=python3
# Apptainer:
#OPEN_R1_WRAP=(apptainer exec --nv --bind "$PWD" /shared/images/open-r1.sif)
#export OPEN_R1_PYTHON=python3

# Compute nodes without the internet: download models and data on the login node first (slurm/README.md).
#export HF_HOME=/shared/huggingface
#export HF_HUB_OFFLINE=1 WANDB_MODE=offline

# Temporary files, on the local disk of each node.
#export TMPDIR=/scratch/$USER

# The network between nodes, if NCCL does not find the fast one, or if only some ports are open.
#export NCCL_SOCKET_IFNAME=ib0
#export OPEN_R1_PORTS=20000-20100

# The folder through which the nodes of a job exchange messages (default: runs/slurm), and the number of restarts
# without progress after failures that may pass (default: 3).
#export OPEN_R1_JOBS=/shared/$USER/open-r1-jobs
#export OPEN_R1_RETRIES=3
