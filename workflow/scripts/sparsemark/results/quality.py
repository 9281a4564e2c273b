"""How far the numbers of a study can be trusted: good, fair or poor, and why."""

import math
from dataclasses import dataclass

import pandas as pd

from sparsemark.results.measurements import percent_away, select
from sparsemark.results.ratios import SHARE, resolution, self_ratios

LEVELS = ("good", "fair", "poor")


@dataclass(frozen=True)
class Sign:
    """Something that a study's quality shows in: its value, in words, and up to where it is good and fair."""

    words: str
    value: float
    good: float
    fair: float

    @property
    def level(self) -> int:
        """Place in LEVELS; what is not known is poor."""
        return 0 if self.value <= self.good else 1 if self.value <= self.fair else 2


def drift(rounds: pd.DataFrame) -> pd.DataFrame:
    """Return, per round in which the reference ran, the minutes since the first and its speed over its median.

    The median is that at the same batch size and cores.
    """
    found = select(rounds, status="ok").dropna(subset=["reference_words_per_s"])
    time = pd.to_datetime(found["measured_at"], utc=True)
    speeds = found["reference_words_per_s"]
    return found[SHARE].assign(
        minutes=(time - time.min()).dt.total_seconds() / 60,
        speed=speeds / found.groupby(SHARE)["reference_words_per_s"].transform("median"),
    )


def signs(rounds: pd.DataFrame) -> list[Sign]:
    """Return what the rows of benchmarks.csv say of the quality, the most telling sign first."""
    told = self_ratios(rounds)
    smallest = resolution(told.values())
    speeds = drift(rounds)["speed"]
    span = float(speeds.quantile(0.95) / speeds.quantile(0.05))
    measured = select(rounds, status="ok")
    if not len(measured):
        return [Sign("nothing has a speed", math.nan, 0, 0)]
    load, doubtful = float(measured["other_load"].median()), float((measured["doubts"] != "").mean())
    return [
        # A ratio is what the study is about; the turns cancel most of what the other signs tell.
        Sign(f"ratios are told from 1 beyond {percent_away(smallest)}", math.expm1(smallest), 0.03, 0.1)
        if any(mean.rounds > 1 for mean in told.values())
        else Sign("the reference was not measured against itself often enough to tell what luck does", math.nan, 0, 0),
        Sign(f"the reference's speed varied by {span:.2f}× (95th over 5th percentile)", span, 1.25, 2),
        Sign("it is not known how busy others were", load, 0, 0)
        if math.isnan(load)
        else Sign(f"others kept {load:.2f} CPUs busy (median)", load, 0.1, 0.5),
        Sign(f"{100 * doubtful:.0f} % of the rows have a doubt", doubtful, 0.05, 1),
    ]


def light(rounds: pd.DataFrame) -> tuple[str, list[Sign]]:
    """Return the worst level of all signs, and the signs, the worst first."""
    found = sorted(signs(rounds), key=lambda sign: -sign.level)
    return LEVELS[found[0].level], found
