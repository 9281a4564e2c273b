"""What is printed as a 95 % interval holds the truth 95 % of the time, and equal things are seldom called different.

Simulated machines put numbers in the place of turns: the program under test is the one that a study runs, from the
speeds of turns on. A machine has

- drift: a slow random walk and bursts, which slow down whatever runs, for several turns;
- noise of a turn, with heavy tails: Student's t with two degrees of freedom, which has no variance;
- processes of their own luck, which stays for a round, and now and then a slow one.

The truth is the ratio of typical processes: one slow process in twenty is an accident, not the speed of an engine.
"""

import numpy as np
import pytest

from sparsemark.results.claims import REFUTED, Claim
from sparsemark.results.ratios import Estimate, Mean, largest_of, resolution, smallest_of, strict_confidence

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
    # A quarter of the bursts ends between the two turns of a pair, a quarter begins there; the order is shuffled.
    when = rng.random(shape)
    first = speeds_of(machine + burst * (when < 0.75))
    second = speeds_of(machine + drift * rng.standard_normal(shape) + burst * ((when < 0.5) | (when > 0.75)))
    logs = first - second
    median = np.median(logs, axis=2)
    # A round whose median is known after half of its turns ends there.
    half = logs[:, :, : TURNS // 2]
    narrow = np.ptp(half, axis=2) <= 2 * 0.02
    return np.where(narrow, np.median(half, axis=2), median)


def studies(machine, count, cases, rounds):
    """The logarithms of `count` studies: of each of several equal cases a Mean, and what the study can resolve."""
    rng = np.random.default_rng([cases, rounds])

    def mean():
        return Mean.of(round_ratios(rng, count, rounds, **MACHINES[machine]))

    # Four references meet themselves: two batch sizes, one core and all.
    return [mean() for _ in range(cases)], resolution([mean() for _ in range(4)])


@pytest.mark.parametrize("rounds", [3, 6])
@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_printed_as_95_percent_holds_the_truth(machine, rounds):
    (first, second), _ = studies(machine, 3000, 2, rounds)
    for ratio in (first.minus(second), first):
        estimate = ratio.estimate()
        held = np.mean((estimate.low <= 1) & (estimate.high >= 1))
        assert 0.93 <= held <= 0.99, f"{held:.3f}"


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("machine", MACHINES)
def test_a_claim_about_equal_things_is_seldom_refuted(machine, count, largest):
    # "Every engine is faster", "no engine is": of engines that are all as fast as each other, neither is to be refuted.
    (base, *engines), smallest = studies(machine, 1000, count + 1, 3)
    quotients = [engine.minus(base) for engine in engines]
    loose = [quotient.estimate(resolution=smallest) for quotient in quotients]
    strict = [quotient.estimate(strict_confidence(count), smallest) for quotient in quotients]
    extreme = (largest_of if largest else smallest_of)(loose, strict)
    limits = {"below": 1.0} if largest else {"above": 1.0}
    claim = Claim("equal", "statement", "ratio", lambda study: None, **limits)
    verdicts = [
        claim.verdict(Estimate(value, low, high, 3, least))
        for value, low, high, least in zip(extreme.value, extreme.low, extreme.high, smallest, strict=True)
    ]
    assert np.mean([verdict == REFUTED for verdict in verdicts]) <= 0.05
