"""Medians and ratios over rounds, with bootstrap intervals.

A round measures every case once, close together in time. What drifts with the machine (its clock, other guests, the
temperature) is much the same for two cases of one round, and cancels in their ratio; it doesn't cancel between a good
round of one case and a bad round of another. Ratios are therefore formed within a round, and only then summarised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

CONFIDENCE = 0.95
RESAMPLES = 4000


@dataclass(frozen=True)
class Estimate:
    """A median over `rounds` rounds, and its interval. One round has no spread: `low` and `high` are NaN then."""

    value: float
    low: float
    high: float
    rounds: int

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)

    def scaled(self, factor: float) -> Estimate:
        """Return the estimate in another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.rounds)


def median_interval(values: Sequence[float]) -> Estimate | None:
    """Return the median of `values` and its percentile bootstrap interval, or None if there is no finite value.

    The resampling is seeded, so that the same table always gives the same figure. With two or three rounds, the
    interval spans all of them: that is all that so few can tell.
    """
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return None
    median = float(np.median(finite))
    if len(finite) == 1:
        return Estimate(median, float("nan"), float("nan"), 1)
    draws = np.random.default_rng(0).integers(0, len(finite), size=(RESAMPLES, len(finite)))
    medians = np.median(finite[draws], axis=1)
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(median, float(low), float(high), len(finite))


def by_round(rows: pd.DataFrame) -> pd.Series:
    """Return the throughput in words/s of the measured rows of one case, indexed by round."""
    measured = rows[(rows["status"] == "ok") & (rows["throughput_words_per_s"] > 0)]
    return measured.groupby("round")["throughput_words_per_s"].median()


def throughput(rows: pd.DataFrame) -> Estimate | None:
    """Return the throughput of one case in words/s over its rounds, or None if no round measured it."""
    return median_interval(by_round(rows).to_numpy())


def fastest(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the rows of the fastest of the cases that differ in `columns`; if none was measured, of the first."""
    cases = [case for _, case in rows.groupby(list(columns), sort=False)]
    measured = [case for case in cases if throughput(case)]
    if measured:
        return max(measured, key=lambda case: throughput(case).value)
    return cases[0] if cases else rows


def ratio(numerator: pd.DataFrame, denominator: pd.DataFrame) -> Estimate | None:
    """Return how many times faster one case is than another, from the rounds that measured both, or None."""
    quotient = by_round(numerator) / by_round(denominator)
    return median_interval(quotient.to_numpy())
