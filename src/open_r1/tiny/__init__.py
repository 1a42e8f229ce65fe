"""The miniature world: sums over keyed digits, which a quarter of a million parameters learn on two CPU cores.

A question names digits and asks for the last digit of their sum, in English or in Chinese. Adding one digit at a time
is nearly always right; guessing, or adding several digits at once, is mostly wrong. The pretraining corpus teaches
the careful way and then buries it under guesses, broken tags and mixed languages, so that reinforcement learning has
something to discover. `problems` makes the data, `tokenizer` the vocabulary; nothing is downloaded.
"""
