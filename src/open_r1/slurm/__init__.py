"""Slurm: submit recipes and pipelines as jobs, run them on the nodes of a job, and show how they stand.

On a login node: `submit` and `request` (sbatch), `status`, `commands` (what Slurm prints), `site` (slurm/site.sh). In
a job: `node`, which slurm/*.slurm start once on each node, and `outcome`, which decides how the job ends.
"""
