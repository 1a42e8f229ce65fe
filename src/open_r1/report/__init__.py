"""What a person reads of a run: plots, tables and pages. Nothing here writes a result."""
