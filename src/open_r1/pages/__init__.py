"""The pages of a report: what the templates show of each kind of run, read from its directory."""
