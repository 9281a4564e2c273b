"""What is printed as a 95 % interval holds the truth 95 % of the time, and equal things are seldom called different.

Simulated machines put numbers in the place of turns: the program under test is the one that a study runs, from the
speeds of turns on. A machine has

- drift: a slow random walk and bursts, which slow down whatever runs, for several turns;
- noise of a turn, with heavy tails: Student's t with two degrees of freedom, which has no variance;
- processes of their own luck, which stays for a round, and now and then a slow one.

The truth is the ratio of typical processes: one slow process in twenty is an accident, not the speed of an engine.
"""

import math

import numpy as np
import pandas as pd
import pytest

from sparsemark.measuring.turns import is_narrow
from sparsemark.results.claims import CONFIRMED, REFUTED, Claim
from sparsemark.results.ratios import extreme_ratio, ratio, resolution, with_reference

TURNS = 12
#: Spread (logarithm) of a process's luck, of a turn, of a step of drift; shares of bursts and of slow processes.
MACHINES = {
    "quiet": {"luck": 0.01, "noise": 0.01},
    "drifting": {"luck": 0.01, "noise": 0.02, "drift": 0.05},
    "shared": {"luck": 0.02, "noise": 0.05, "drift": 0.05, "bursts": 0.15},
    "uneven": {"luck": 0.03, "noise": 0.01, "slow": 0.05},
    "wild": {"luck": 0.02, "noise": 0.1, "drift": 0.1, "bursts": 0.3, "slow": 0.05},
}


def round_ratios(rng, count, rounds, *, luck, noise, drift=0.0, bursts=0.0, slow=0.0):
    """The median log ratio of two equal programs per round, [count, rounds], as a round's turns give it."""
    shape = (count, rounds, TURNS)

    def speeds_of(now):
        process = luck * rng.standard_normal((count, rounds, 1)) - 0.1 * (rng.random((count, rounds, 1)) < slow)
        return process + noise * rng.standard_t(2, shape) + now

    machine = drift * rng.standard_normal(shape).cumsum(axis=2)
    burst = -0.7 * (rng.random(shape) < bursts)
    # A burst begins before the second turn of a pair as often as before the first.
    late = rng.random(shape) < 0.5
    logs = speeds_of(machine + burst) - speeds_of(machine + drift * rng.standard_normal(shape) + np.where(late, 0, burst))
    median = np.median(logs, axis=2)
    # A round whose median is known after half of its turns ends there.
    half = logs[:, :, : TURNS // 2]
    narrow = np.ptp(half, axis=2) <= 2 * 0.02
    return np.where(narrow, np.median(half, axis=2), median)


def studies(rng, machine, count, cases, rounds=3):
    """Simulated studies: per study, the rows of each case (an engine of its own) and of the reference itself."""
    logs = round_ratios(rng, count * (cases + 4), rounds, **MACHINES[machine]).reshape(count, cases + 4, rounds)
    names = [f"engine{number}" for number in range(cases)]
    for study in logs:
        table = pd.DataFrame(
            {
                "engine": np.repeat([*names, *["reference"] * 4], rounds),
                # Four references: of each batch size and share of the processor.
                "batch_size": np.repeat([64] * cases + [64, 1, 64, 1], rounds),
                "cores": np.repeat(["1"] * cases + ["1", "1", "all", "all"], rounds),
                "round": np.tile(np.arange(1, rounds + 1), cases + 4),
                "ratio": np.exp(study.ravel()),
                "is_reference": np.repeat([False] * cases + [True] * 4, rounds),
                "reference_words_per_s": 100.0,
                "base_ratio": np.nan,
                "status": "ok",
            }
        )
        table = with_reference(table)
        yield [table.iloc[number * rounds : (number + 1) * rounds] for number in range(cases)]


@pytest.mark.parametrize("rounds", [3, 6])
@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_printed_as_95_percent_covers_as_much(machine, rounds):
    rng = np.random.default_rng([3, rounds])
    held = [
        estimate.low <= 1 <= estimate.high
        for first, second in studies(rng, machine, 1200, 2, rounds)
        if (estimate := ratio(first, second))
    ]
    assert 0.93 <= np.mean(held) <= 0.99, f"{np.mean(held):.3f}"
