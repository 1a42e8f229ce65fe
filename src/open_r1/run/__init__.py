"""The run directory: what every task does before and after its work."""
