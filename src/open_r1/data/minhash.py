"""MinHash sketches of texts: how alike two texts are, from a few numbers of each, and which are worth comparing.

The sketches are rensa's, over 20 times as fast to make as datasketch's. They are made and compared within one run and
never stored, as rensa may change them between releases.
"""

from __future__ import annotations

import numpy as np
import rensa

from .ngrams import Words, ngram_hashes

SHINGLE = 2  # words; what a set of a text's features is made of
PERMUTATIONS = 64  # the estimate of a similarity J has a standard error of at most sqrt(J (1 - J) / 64), 0.06
SEED = 1
CALL = 64  # texts sketched at once; from some hundreds on rensa starts threads, and a fork after that hangs
RECALL = 0.97  # of pairs exactly at the threshold, before their similarity is estimated


def shingles(cut: Words) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the shingles of each text, text after text, and how many each has [texts]."""
    index, counts = cut.windows(SHINGLE)
    return ngram_hashes(cut.hashes, SHINGLE)[index], counts


def shingle_sets(cut: Words) -> list[np.ndarray]:
    """The same as an array for each text, with repetitions."""
    hashes, counts = shingles(cut)
    return np.split(hashes, np.cumsum(counts)[:-1])


def sketches(cut: Words) -> np.ndarray:
    """Sketches [texts, PERMUTATIONS]; those of texts without a shingle mean nothing."""
    hashes, counts = shingles(cut)
    ends = np.concatenate([[0], np.cumsum(counts)])
    found = np.zeros((len(counts), PERMUTATIONS), np.uint32)
    for begin in range(0, len(counts), CALL):
        offsets = ends[begin : begin + CALL + 1]
        own = hashes[offsets[0] : offsets[-1]]
        offsets = (offsets - offsets[0]).astype(np.uint64)
        made = rensa.RMinHash.digest_matrix_from_flat_token_hashes(own, offsets, PERMUTATIONS, SEED)
        found[begin : begin + CALL] = made.to_rows()
    return found


def rows_per_band(threshold: float) -> int:
    """The largest bands by which pairs at the threshold still meet with probability RECALL.

    Two texts of similarity J share a band of r values with J^r, and one of b bands with 1 - (1 - J^r)^b.
    """
    fits = [r for r in range(1, 9) if 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= RECALL]
    return max(fits, default=1)


def band_keys(sketches_TP: np.ndarray, rows: int) -> np.ndarray:
    """A key for each band of each text [texts, bands]; the same key in different bands is not the same band."""
    texts, bands = len(sketches_TP), PERMUTATIONS // rows
    values = sketches_TP[:, : bands * rows].astype(np.uint64).reshape(texts, bands, rows)
    keys = np.arange(bands, dtype=np.uint64)[None, :] + np.zeros((texts, 1), np.uint64)
    for r in range(rows):
        keys = (keys ^ values[:, :, r]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys
