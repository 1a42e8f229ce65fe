"""From sampled completions to a dataset: scoring, rejection sampling, curriculum."""
