"""Intervals of accuracies, against published values and simulated test sets."""

import numpy as np
import pandas as pd
import pytest

from sparsemark.results.accuracies import difference, difference_cell, over_seeds, share_right


def of(*accuracies: float) -> pd.Series:
    return pd.Series(accuracies, index=range(1, len(accuracies) + 1))


def test_the_interval_is_wilsons():
    """81 of 263, as in Newcombe (1998), Two-sided confidence intervals for the single proportion, method 3."""
    found = share_right(of(81 / 263), 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_the_difference_is_newcombes():
    """Newcombe (1998), Interval estimation for the difference, method 10: Wilson's distances, squared and added."""
    first, second = share_right(of(56 / 80), 80), share_right(of(48 / 80), 80)
    found = difference(of(56 / 80), of(48 / 80), 80)
    assert found.value == pytest.approx(10)
    assert found.low == pytest.approx(10 - 100 * np.hypot(0.7 - first.low, second.high - 0.6))
    assert found.high == pytest.approx(10 + 100 * np.hypot(first.high - 0.7, 0.6 - second.low))


def test_a_difference_of_equal_networks_is_rarely_told():
    """Two networks that are right equally often, on the same 1,152 clips: 5 % at most are told to differ."""
    generator = np.random.default_rng(1)
    right = generator.binomial(1152, 0.93, size=(2000, 2)) / 1152
    told = [difference(of(a), of(b), 1152) for a, b in right]
    assert np.mean([not found.low <= 0 <= found.high for found in told]) <= 0.06


def test_differences_within_the_interval_are_not_printed_as_such():
    assert str(difference_cell(difference(of(0.9317), of(0.93), 1152))).startswith("none told [")
    assert str(difference_cell(difference(of(0.88), of(0.93), 1152))).startswith("-5.0 [")
    assert str(difference_cell(difference(of(0.88), pd.Series(dtype=float), 1152))) == "–"


def test_only_common_seeds_are_compared():
    assert difference(of(0.9, 0.95), of(0.9), 1000).value == pytest.approx(0)


def test_seeds_stand_beside_the_interval():
    assert over_seeds(of(0.97, 0.972), 4890) == "97.1 [96.6, 97.5], seeds 97.0 to 97.2"
    assert over_seeds(of(1.0), 10) == "100.0 [72.2, 100.0]"
