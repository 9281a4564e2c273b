"""How many test clips an engine classifies right, how surely, and which differences of accuracy can be told.

A test set is a sample. The interval of an accuracy is Wilson's (1927) for that many clips, and that of a difference is
Newcombe's of two of them (1998, method 10). Both networks heard the same clips, which makes their difference known
better than that: the interval is on the safe side. What another training would change is no part of it, so the number
of seeds, and their range, stand beside it.
"""

import math

import pandas as pd
from scipy import stats

from sparsemark.results.html_table import Cell
from sparsemark.results.measurements import select, with_interval
from sparsemark.results.ratios import CONFIDENCE, Estimate


def accuracies_of_seeds(
    networks: pd.DataFrame, accuracies: pd.DataFrame | None, network: str, precision: str, engine: str
) -> pd.Series:
    """Return the accuracy (0-1) of what the engine ran, per seed.

    An FP32 network that the engine did not evaluate has the accuracy of its training.
    """
    trained = select(networks, network=network).set_index("seed")["accuracy"]
    found = trained if precision == "fp32" else trained.iloc[:0]
    if accuracies is not None:
        own = select(accuracies, network=network, precision=precision, engine=engine, status="ok")
        found = own.set_index("seed")["accuracy"].combine_first(found)
    return found.dropna()


def accuracy(
    networks: pd.DataFrame, accuracies: pd.DataFrame | None, network: str, precision: str, engine: str
) -> Estimate | None:
    """Return the mean over seeds of `accuracies_of_seeds` (0-1), or None if there is nothing to average."""
    found = accuracies_of_seeds(networks, accuracies, network, precision, engine)
    return share_right(found, clips_of(networks, network))


def clips_of(networks: pd.DataFrame, network: str) -> int:
    """Return the number of test clips of a network."""
    return int(select(networks, network=network)["test_clips"].iloc[0])


def share_right(of_seeds: pd.Series, clips: int) -> Estimate | None:
    """Return the mean of several seeds' accuracies (0-1) with Wilson's interval for `clips`; `rounds` are the seeds.

    All seeds hear the same clips, so more of them are no larger sample.
    """
    if not len(of_seeds):
        return None
    mean = float(of_seeds.mean())
    interval = stats.binomtest(round(mean * clips), clips).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(mean, min(interval.low, mean), max(interval.high, mean), len(of_seeds))


def difference(own: pd.Series, other: pd.Series, clips: int) -> Estimate | None:
    """Return how much more accurate `own` is than `other` over their common seeds, in points; None without such."""
    seeds = own.index.intersection(other.index)
    first, second = share_right(own[seeds], clips), share_right(other[seeds], clips)
    if first is None or second is None:
        return None
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, low, high, len(seeds)).scaled(100)


def in_percent(estimate: Estimate | None) -> str:
    """Return "95.2 [94.0, 96.3]", without the sign of percent, or a dash."""
    return with_interval(estimate.scaled(100) if estimate else None, "{:.1f}".format)


def over_seeds(of_seeds: pd.Series, clips: int) -> str:
    """Return `in_percent`, with the range over seeds if there are several: "97.1 [96.6, 97.5], seeds 97.0 to 97.2"."""
    told = in_percent(share_right(of_seeds, clips))
    if len(of_seeds) < 2:
        return told
    return f"{told}, seeds {100 * of_seeds.min():.1f} to {100 * of_seeds.max():.1f}"


def difference_cell(found: Estimate | None) -> Cell:
    """Return a difference that can be told, "-2.2 [-3.0, -1.4]", or that it can't be, with its interval; or a dash."""
    if found is None:
        return Cell("–", "quiet")
    if found.low <= 0 <= found.high:
        return Cell(f"none told [{found.low:+.1f}, {found.high:+.1f}]", "quiet")
    return Cell(with_interval(found, "{:+.1f}".format))
