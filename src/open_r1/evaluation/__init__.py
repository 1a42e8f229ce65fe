"""Grading of held-out problems, metrics with intervals, and comparisons."""
