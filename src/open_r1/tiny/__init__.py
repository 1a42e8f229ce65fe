"""The miniature: sums of digits that a model of a quarter million parameters learns on two CPU cores.

A question lists digits and asks for the last digit of their sum, in English or in Chinese. Adding one digit at a time
is nearly always right; guessing, or adding several digits at once, is mostly wrong. The pretraining corpus first
teaches the careful way, and then mixes it with guesses, broken tags and mixed languages, which leaves reinforcement
learning something to discover. `problems` makes the data, `tokenizer` the vocabulary; nothing is downloaded.
"""
