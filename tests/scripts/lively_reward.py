"""A reward that a random model meets half of the time, so that tests have something to learn from."""


def even_length(completion: str) -> float:
    return float(len(completion) % 2 == 0)
