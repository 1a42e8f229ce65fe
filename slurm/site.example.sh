# shellcheck shell=bash disable=SC2034
# Your cluster in one file: cp slurm/site.example.sh slurm/site.sh, and keep what applies. Every job sources it on its
# first node, from where all nodes get what it exports; so does `open-r1 submit` on the login node. For plain sbatch,
# source it in your shell first if it says where jobs go. OPEN_R1_SITE names another file. It may fail (`return 1`), and
# fails if its last command does: then nothing starts.

# Where jobs go, and who pays. These are sbatch's own variables; options on its command line come before them.
#export SBATCH_PARTITION=gpu
#export SBATCH_ACCOUNT=my-project
#export SBATCH_QOS=normal

# The environment, on a file system that compute nodes see. Without a line here it is .venv of this checkout.
#module load cuda/12.8 || return 1
#export OPEN_R1_PYTHON=/shared/envs/open-r1/bin/python

# Or a container that holds it; Python is then the container's. Pyxis and enroot:
#OPEN_R1_SRUN=(--container-image=/shared/images/open-r1.sqsh --container-mounts="$PWD:$PWD" --container-workdir="$PWD")
#export OPEN_R1_PYTHON=python3
# Apptainer:
#OPEN_R1_WRAP=(apptainer exec --nv --bind "$PWD" /shared/images/open-r1.sif)
#export OPEN_R1_PYTHON=python3

# Compute nodes without the internet: fetch models and data on the login node first (slurm/README.md).
#export HF_HOME=/shared/huggingface
#export HF_HUB_OFFLINE=1 WANDB_MODE=offline

# Scratch for temporary files, on each node's own disk.
#export TMPDIR=/scratch/$USER

# The network between nodes, where NCCL does not find the fast one, or only some ports are open.
#export NCCL_SOCKET_IFNAME=ib0
#export OPEN_R1_PORTS=20000-20100

# Where jobs keep what their nodes tell each other (default: runs/slurm), and how often one starts again after failures
# that may pass, without a step between (default: 3).
#export OPEN_R1_JOBS=/shared/$USER/open-r1-jobs
#export OPEN_R1_RETRIES=3
