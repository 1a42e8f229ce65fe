"""Datasets: where rows come from, their columns, deduplication and contamination."""
