"""Ratios and speeds from rounds of turns, with intervals that have the coverage they are named by.

A row of benchmarks.csv is a round: a fresh pair of processes, the case and its reference, and the median ratio over
their pairs of turns. What two processes of one program differ by (where their memory lies, how they started) is between
rounds, what a moment of the machine does is within them; both are in the spread of the rounds' medians, so an interval
over rounds covers both. It is Student's t interval of the mean logarithm, with Welch's degrees of freedom where several
means are combined. docs/measuring.md tells why, and tests/results/test_coverage.py holds it to simulated machines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from sparsemark.measuring import reference

CONFIDENCE = 0.95
#: What names a reference: every batch size and share of the processor has its own.
SHARE = ["batch_size", "cores"]


@dataclass(frozen=True)
class Estimate:
    """A value over `rounds` rounds and its 95 % interval. One round has no spread: `low` and `high` are NaN then.

    `resolution` is the logarithm of the smallest ratio that the study tells from 1; 0 for what is no ratio.
    """

    value: float
    low: float
    high: float
    rounds: int
    resolution: float = 0.0

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)

    @property
    def conclusive(self) -> tuple[float, float]:
        """The interval that conclusions are drawn from: never narrower than the resolution."""
        factor = math.exp(self.resolution)
        return min(self.low, self.value / factor), max(self.high, self.value * factor)

    @property
    def is_told_from_one(self) -> bool:
        """Whether it is a difference that can be told here."""
        low, high = self.conclusive
        return self.has_interval and not low <= 1 <= high

    def scaled(self, factor: float) -> Estimate:
        """Return the estimate in another unit."""
        return replace(self, value=self.value * factor, low=self.low * factor, high=self.high * factor)


@dataclass(frozen=True)
class Mean:
    """A mean over rounds, its variance (NaN for one round), and the degrees of freedom of that variance.

    All may be arrays: many means of as many rounds at once.
    """

    value: float
    variance: float
    freedom: float
    rounds: int

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Mean:
        """Return the mean over the last axis."""
        values = np.asarray(values, dtype=float)
        count = values.shape[-1]
        variance = values.var(axis=-1, ddof=1) / count if count > 1 else np.full(values.shape[:-1], math.nan)[()]
        return cls(values.mean(axis=-1), variance, count - 1, count)

    @classmethod
    def exactly(cls, value: float, rounds: int = 1) -> Mean:
        return cls(value, 0.0, math.inf, rounds)

    def plus(self, other: Mean) -> Mean:
        """Return the sum of two independent means (Welch and Satterthwaite)."""
        variance = np.add(self.variance, other.variance)
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [np.square(mean.variance / variance) / mean.freedom for mean in (self, other)]
            freedom = np.where(variance == 0, math.inf, 1 / np.add(*parts))[()]
        return Mean(self.value + other.value, variance, freedom, min(self.rounds, other.rounds))

    def minus(self, other: Mean) -> Mean:
        return self.plus(replace(other, value=-other.value))

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        half = half_width(self.variance, self.freedom, confidence)
        return self.value - half, self.value + half

    def estimate(self, confidence: float = CONFIDENCE, resolution: float = 0.0) -> Estimate:
        """Return the estimate of what this is the logarithm of."""
        low, high = self.interval(confidence)
        return Estimate(np.exp(self.value), np.exp(low), np.exp(high), self.rounds, resolution)


def half_width(variance: float, freedom: float, confidence: float = CONFIDENCE) -> float:
    """Return half of Student's t interval of a mean with this variance; no variance, no width."""
    return np.where(variance == 0, 0.0, stats.t.ppf((1 + confidence) / 2, freedom) * np.sqrt(variance))[()]


def largest_of(estimates: Sequence[Estimate], strict: Sequence[Estimate]) -> Estimate:
    """Return the estimate of the largest of several values, whichever of them that truly is.

    It lies below the highest upper end unless it lies above its own, which 2.5 % of intervals do, however many there
    are (an intersection-union test, Berger 1982). That some lower end lies above its value is likelier the more there
    are, so lower ends are those of `strict`: intervals with a k-th of the error for k values (Bonferroni).
    """
    value = np.max([estimate.value for estimate in estimates], axis=0)
    low = np.max([estimate.low for estimate in strict], axis=0)
    high = np.max([estimate.high for estimate in estimates], axis=0)
    return replace(_fewest_rounds(estimates), value=value, low=low, high=high)


def smallest_of(estimates: Sequence[Estimate], strict: Sequence[Estimate]) -> Estimate:
    """Return the estimate of the smallest of several values: `largest_of`, the other way round."""
    value = np.min([estimate.value for estimate in estimates], axis=0)
    low = np.min([estimate.low for estimate in estimates], axis=0)
    high = np.min([estimate.high for estimate in strict], axis=0)
    return replace(_fewest_rounds(estimates), value=value, low=low, high=high)


def _fewest_rounds(estimates: Sequence[Estimate]) -> Estimate:
    return min(estimates, key=lambda estimate: estimate.rounds)


def strict_confidence(count: int) -> float:
    """Return the confidence of each of `count` intervals that hold together with CONFIDENCE (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / count


def mean_interval(values: Sequence[float]) -> Estimate | None:
    """Return the mean of finite `values` with its t interval, or None if there is none: for what is no ratio."""
    finite = [float(value) for value in values if math.isfinite(value)]
    if not finite:
        return None
    mean = Mean.of(finite)
    return Estimate(mean.value, *mean.interval(), mean.rounds)


# -------------------------------------------------------------------------------------------------- the reference


def _measured(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows["status"] == "ok") & (rows["ratio"] > 0)]


def self_ratios(benchmarks: pd.DataFrame) -> dict[tuple[int, str], Mean]:
    """Return, per batch size and cores, the mean logarithm of the reference's ratio to itself (the A/A comparison)."""
    rows = _measured(benchmarks)
    rows = rows[rows["is_reference"]]
    return {share: Mean.of(np.log(own["ratio"])) for share, own in rows.groupby(SHARE)}


def resolution(self_ratios: Iterable[Mean]) -> float:
    """Return the logarithm of the smallest ratio that can be told from 1; 0 if no two A/A rounds tell it.

    It is what the reference's ratio to itself may be away from 1: half its 95 % interval, from the spread of all A/A
    rounds together, or the farthest that one of these ratios was from 1, if that is more.
    """
    found = [mean for mean in self_ratios if mean.rounds > 1]
    if not found:
        return 0.0
    freedom = sum(mean.freedom for mean in found)
    variance = sum(mean.variance * mean.freedom for mean in found) / freedom
    return np.max([half_width(variance, freedom), *(np.abs(mean.value) for mean in found)], axis=0)


def reference_speeds(benchmarks: pd.DataFrame) -> dict[tuple[int, str], Mean]:
    """Return the logarithm of each reference's speed in words/s, by batch size and cores.

    The base's is its median over all its rounds of the study. The others' are tied to it by the turns that they took
    with it; only this tie's variance is told, since that of the base is common to all speeds and cancels in ratios.
    """
    rows = _measured(benchmarks)
    batch_size, cores = reference.BASE
    base = rows.loc[(rows["batch_size"] == batch_size) & (rows["cores"] == cores), "reference_words_per_s"]
    if not len(base):
        return {}
    speed = Mean.exactly(math.log(base.median()))
    ties = rows[rows["is_reference"] & rows["base_ratio"].notna()]
    found = {share: speed.plus(Mean.of(np.log(own["base_ratio"]))) for share, own in ties.groupby(SHARE)}
    return {**found, reference.BASE: speed}


def with_reference(benchmarks: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with what is needed of their reference: its speed (a Mean of logarithms), and the resolution."""
    speeds = reference_speeds(benchmarks)
    shares = zip(benchmarks["batch_size"], benchmarks["cores"], strict=True)
    return benchmarks.assign(
        reference_speed=pd.Series([speeds.get(share) for share in shares], index=benchmarks.index, dtype=object),
        resolution=resolution(self_ratios(benchmarks).values()),
    )


# ------------------------------------------------------------------------------------------------ speeds and ratios


def rounds_measured(rows: pd.DataFrame) -> int:
    """Return how many rounds of one case have a speed."""
    return _measured(rows)["round"].nunique()


def _log_ratio(rows: pd.DataFrame) -> Mean | None:
    """Return the logarithm of one case's ratio to its reference; that of the reference is 1 by definition."""
    measured = _measured(rows)
    if not len(measured):
        return None
    if measured["is_reference"].all():
        return Mean.exactly(0.0, len(measured))
    return Mean.of(np.log(measured["ratio"]))


def throughput(rows: pd.DataFrame) -> Estimate | None:
    """Return the speed of one case in words/s, or None if no round measured it.

    It is its ratio times the reference's speed over the whole study; the interval is that of the ratio. The reference
    itself, the measure of all speeds, has none.
    """
    mean = _log_ratio(rows)
    speed = rows["reference_speed"].iloc[0] if mean else None
    if speed is None:
        return None
    if mean.freedom == math.inf:
        return Estimate(math.exp(speed.value), math.nan, math.nan, mean.rounds)
    return mean.estimate(resolution=rows["resolution"].iloc[0]).scaled(math.exp(speed.value))


def ratio(numerator: pd.DataFrame, denominator: pd.DataFrame, confidence: float = CONFIDENCE) -> Estimate | None:
    """Return how many times faster one case is than another, or None if either has no speed.

    Both were timed in turns with a reference, and what is between two references, they were timed in turns for, too.
    """
    above, below = _log_ratio(numerator), _log_ratio(denominator)
    if above is None or below is None:
        return None
    quotient = above.minus(below)
    first, second = numerator.iloc[0], denominator.iloc[0]
    if any(first[name] != second[name] for name in SHARE):
        if first["reference_speed"] is None or second["reference_speed"] is None:
            return None
        tie = first["reference_speed"].minus(second["reference_speed"])
        quotient = replace(quotient.plus(tie), rounds=quotient.rounds)
    return quotient.estimate(confidence, first["resolution"])


def fastest(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the rows of the fastest of the cases that differ in `columns`; if none was measured, of the first."""
    cases = [case for _, case in rows.groupby(list(columns), sort=False)]
    measured = [case for case in cases if throughput(case)]
    if measured:
        return max(measured, key=lambda case: throughput(case).value)
    return cases[0] if cases else rows


def not_told_from(best: pd.DataFrame, rows: pd.DataFrame, *columns: str) -> list[pd.DataFrame]:
    """Return the cases of `rows`, which differ in `columns`, whose speed cannot be told from that of `best`."""
    same = []
    for _, case in rows.groupby(list(columns), sort=False):
        if case.index.equals(best.index):
            continue
        quotient = ratio(best, case)
        if quotient and not quotient.is_told_from_one:
            same.append(case)
    return same


def extreme_ratio(pairs: dict[str, tuple[pd.DataFrame, pd.DataFrame]], largest: bool) -> tuple[str, Estimate] | None:
    """Return the label and the estimate of the largest (or smallest) of several ratios, or None if there is none."""
    found = {label: estimate for label, pair in pairs.items() if (estimate := ratio(*pair))}
    if not found:
        return None
    strict = [ratio(*pairs[label], confidence=strict_confidence(len(found))) for label in found]
    label = (max if largest else min)(found, key=lambda name: found[name].value)
    return label, (largest_of if largest else smallest_of)(list(found.values()), strict)
