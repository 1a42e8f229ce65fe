"""Runs: start and finish, checkpoints, environment, lineage, and the files of a job array."""
