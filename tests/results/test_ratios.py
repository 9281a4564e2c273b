"""Ratios and speeds from rounds, against hand-made tables and scipy's intervals."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sparsemark.results.claims import CONFIRMED, OPEN, Claim
from sparsemark.results.ratios import (
    Mean,
    extreme_ratio,
    mean_interval,
    not_told_from,
    ratio,
    resolution,
    self_ratios,
    throughput,
    with_reference,
)


def case(ratios, engine="e", batch_size=64, cores="1", status="ok", reference=False, ties=None, speed=100.0):
    """The rows of one case: a round per ratio."""
    return pd.DataFrame(
        {
            "engine": engine,
            "batch_size": batch_size,
            "cores": cores,
            "round": range(1, len(ratios) + 1),
            "status": status,
            "ratio": ratios,
            "is_reference": reference,
            "reference_words_per_s": speed,
            "base_ratio": np.nan if ties is None else ties,
        }
    )


def study(*cases):
    """The cases with what a study of all of them tells of their references."""
    table = with_reference(pd.concat(cases, ignore_index=True))
    places = np.cumsum([0, *map(len, cases)])
    return [table.iloc[begin:end] for begin, end in pairwise(places)]


def test_a_speed_is_the_mean_ratio_times_the_references_speed():
    logs = np.log([1.9, 2.0, 2.2])
    own, _ = study(case([1.9, 2.0, 2.2]), case([1.0, 1.0, 1.0], reference=True))
    estimate = throughput(own)
    expected = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    assert estimate.value == pytest.approx(100 * math.exp(logs.mean()))
    assert (estimate.low, estimate.high) == pytest.approx(100 * np.exp(expected))
    assert estimate.rounds == 3


def test_a_ratio_has_welchs_interval():
    a, b = [2.0, 2.2, 2.1, 2.05], [1.0, 0.97, 1.06]
    first, second = study(case(a), case(b))
    estimate = ratio(first, second)
    expected = stats.ttest_ind(np.log(a), np.log(b), equal_var=False).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx(np.exp([expected.low, expected.high]))
    assert estimate.value == pytest.approx(math.exp(np.mean(np.log(a)) - np.mean(np.log(b))))
    assert ratio(second, first).low == pytest.approx(1 / estimate.high)


def test_the_reference_is_one_by_definition():
    # What its luck against itself was is no part of a ratio to it.
    first, second = study(case([2.0, 2.2]), case([1.03, 0.95], reference=True))
    assert ratio(first, second).value == pytest.approx(math.sqrt(2.0 * 2.2))
    assert throughput(second).value == pytest.approx(100) and not throughput(second).has_interval


def test_two_references_are_tied_by_their_own_turns():
    ties = np.array([3.0, 3.3])
    whole = case([1.0, 1.0], cores="all", reference=True, ties=ties, speed=1e6)
    one, many, _ = study(case([2.0, 2.1]), case([4.0, 4.1], cores="all"), whole)
    assert ratio(many, one).value == pytest.approx(math.sqrt(4.0 * 4.1 * 3.0 * 3.3 / 2.0 / 2.1))
    # The speed of the other reference while the case ran is no part of it; that of the base over the study is.
    assert throughput(many).value == pytest.approx(100 * math.sqrt(4.0 * 4.1 * 3.0 * 3.3))
    assert throughput(many).value / throughput(one).value == pytest.approx(ratio(many, one).value)
    # Its spread counts.
    alone = ratio(many, study(case([2.0, 2.1], cores="all"))[0])
    assert math.log(ratio(many, one).high / ratio(many, one).low) > math.log(alone.high / alone.low)


def test_references_that_never_met_have_no_ratio():
    one, many = study(case([2.0, 2.1]), case([4.0, 4.1], cores="all"))
    assert ratio(many, one) is None and throughput(many) is None


def test_failed_rounds_are_not_measurements():
    failed, good = study(case([np.nan, np.nan], status="timeout"), case([2.0, 2.0]))
    assert throughput(failed) is None and ratio(good, failed) is None and ratio(failed, good) is None
    assert throughput(pd.concat([failed, good])).rounds == 2


def test_one_round_has_no_interval():
    one, several = study(case([4.0]), case([1.0, 2.0]))
    for estimate in (throughput(one), ratio(one, several), mean_interval([4.0])):
        assert not estimate.has_interval and math.isnan(estimate.low) and math.isnan(estimate.high)
        assert not estimate.is_told_from_one
    assert mean_interval([math.nan]) is None


def test_the_resolution_is_what_equal_things_may_differ_by():
    def own(ratios, **share):
        return case(ratios, reference=True, **share)

    table = pd.concat([own([1.01, 0.99, 1.0]), own([1.02, 1.0, 0.98], batch_size=1)])
    variance = np.mean([np.var(np.log(values), ddof=1) for values in ([1.01, 0.99, 1.0], [1.02, 1.0, 0.98])])
    assert resolution(self_ratios(table).values()) == pytest.approx(stats.t.ppf(0.975, 4) * math.sqrt(variance / 3))
    assert set(self_ratios(table)) == {(64, "1"), (1, "1")}
    # One of them away from 1 by more than its spread explains: then that is what cannot be told apart.
    biased = self_ratios(pd.concat([table, own([1.1, 1.1, 1.1], batch_size=8)]))
    assert resolution(biased.values()) == pytest.approx(math.log(1.1))
    assert resolution(self_ratios(own([1.01])).values()) == 0


def test_no_conclusion_is_drawn_from_less_than_the_resolution():
    first, second, _ = study(case([1.02, 1.02]), case([1.0, 1.0]), case([1.05, 0.95, 1.05, 0.95], reference=True))
    half = first["resolution"].iloc[0]
    estimate = ratio(first, second)
    assert 0.02 < half < 0.1
    assert (estimate.low, estimate.high) == pytest.approx((1.02, 1.02))
    assert estimate.conclusive == pytest.approx((1.02 / math.exp(half), 1.02 * math.exp(half)))
    assert not estimate.is_told_from_one
    assert [len(rows) for rows in not_told_from(first, pd.concat([first, second.assign(engine="f")]), "engine")] == [2]
    claim = Claim("faster", "statement", "ratio", lambda study: None, above=1)
    assert claim.verdict(estimate) == OPEN
    assert claim.verdict(replace(estimate, resolution=0.001)) == CONFIRMED


def test_the_interval_of_a_largest_ratio_allows_for_how_many_there_are():
    base, *others = study(case([1.0, 1.02, 0.98]), *(case([v, v * 1.03, v * 0.97]) for v in (1.1, 1.2, 0.9)))
    pairs = {str(number): (rows, base) for number, rows in enumerate(others)}
    single = [ratio(*pair) for pair in pairs.values()]
    third = [ratio(*pair, confidence=1 - 0.05 / 3) for pair in pairs.values()]
    label, most = extreme_ratio(pairs, largest=True)
    assert label == "1" and most.value == single[1].value
    assert most.high == max(estimate.high for estimate in single)
    assert most.low == max(estimate.low for estimate in third) < single[1].low
    label, least = extreme_ratio(pairs, largest=False)
    assert label == "2"
    assert least.low == min(estimate.low for estimate in single)
    assert least.high == min(estimate.high for estimate in third) > single[2].high
    assert extreme_ratio({"only": pairs["0"]}, largest=True)[1] == single[0]
    assert extreme_ratio({}, largest=True) is None


def test_an_exact_mean_adds_nothing_to_an_interval():
    mean = Mean.of([1.0, 2.0, 4.0])
    assert mean.plus(Mean.exactly(3.0, 3)).interval() == pytest.approx(np.add(mean.interval(), 3.0))
    assert Mean.exactly(1.0).plus(Mean.exactly(2.0)).interval() == (3.0, 3.0)
