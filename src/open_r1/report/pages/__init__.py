"""The parts of a report page, one file for each kind of run."""
