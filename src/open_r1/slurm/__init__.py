"""Slurm: what runs on a job's nodes (`node`, `outcome`), and what asks for jobs and looks after them.

A job of slurm/*.slurm starts `node` once on each of its nodes. The first node runs the command that a person would run
on one machine; where that needs the others, it leaves orders in the start's folder, which they follow. What only Slurm
knows stays here, and in slurm/*.slurm.
"""
