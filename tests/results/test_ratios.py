"""Ratios over rounds, against hand-made tables and scipy's bootstrap."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sparsemark.results.ratios import median_interval, ratio, throughput


def rows(values, rounds=None, status="ok"):
    rounds = range(1, len(values) + 1) if rounds is None else rounds
    return pd.DataFrame({"round": rounds, "throughput_words_per_s": values, "status": status})


def test_ratio_is_formed_within_a_round():
    # The machine halves its speed in round 2. Within a round the ratio is exactly 3; the ratio of the medians is too,
    # but an interval from unpaired rounds would span 1.5 to 6.
    slow, fast = rows([100.0, 50.0, 100.0]), rows([300.0, 150.0, 300.0])
    estimate = ratio(fast, slow)
    assert (estimate.value, estimate.low, estimate.high, estimate.rounds) == (3.0, 3.0, 3.0, 3)


def test_ratio_uses_only_rounds_that_measured_both():
    estimate = ratio(rows([10.0, 20.0, 40.0], rounds=[1, 2, 3]), rows([10.0, 10.0], rounds=[2, 3]))
    assert estimate.rounds == 2
    assert estimate.value == pytest.approx(3.0)


def test_failed_rounds_are_not_measurements():
    failed = rows([np.nan, np.nan], status="timeout")
    assert throughput(failed) is None
    assert ratio(rows([1.0, 2.0]), failed) is None
    assert throughput(pd.concat([failed.assign(round=[3, 4]), rows([5.0, 7.0])])).rounds == 2


def test_one_round_has_no_interval():
    estimate = median_interval([4.0])
    assert estimate.value == 4.0
    assert not estimate.has_interval
    assert np.isnan(estimate.low) and np.isnan(estimate.high)


def test_interval_agrees_with_scipy():
    values = np.random.default_rng(1).lognormal(size=25)
    estimate = median_interval(values)
    reference = stats.bootstrap((values,), np.median, method="percentile", rng=np.random.default_rng(2))
    assert estimate.value == np.median(values)
    assert estimate.low == pytest.approx(reference.confidence_interval.low, rel=0.05)
    assert estimate.high == pytest.approx(reference.confidence_interval.high, rel=0.05)


def test_interval_is_the_same_every_time():
    values = [3.0, 1.0, 2.0, 5.0]
    assert median_interval(values) == median_interval(values)
