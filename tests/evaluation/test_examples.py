"""The examples in the docstrings of the statistics give the results that they state."""

from __future__ import annotations

import doctest

import pytest

from open_r1.evaluation import intervals, majority_vote, metrics, over_seeds, significance


@pytest.mark.parametrize("module", [intervals, majority_vote, metrics, over_seeds, significance])
def test_examples(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed
