"""Does a recipe fit its hardware, how long does it take, and what else would fit? Needs no weights and no GPU."""
