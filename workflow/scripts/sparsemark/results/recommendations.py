"""Which case to deploy, and whether sparsity pays: the fastest cases of all engines, networks and precisions.

A case is recommended only if its accuracy is not told to be below that of the dense network in FP32, and one case is
faster than another only if their ratio is told from 1. Whatever cannot be told is not decided.
"""

from dataclasses import dataclass

import pandas as pd

from sparsemark.results.accuracies import accuracies_of_seeds, accuracy, clips_of, difference
from sparsemark.results.measurements import dense_network, select, sparse_networks
from sparsemark.results.ratios import Estimate, ratio, throughput

YES, NO, OPEN = "yes", "no", "cannot be told"


@dataclass(frozen=True)
class Candidate:
    """A case with a speed: its accuracy (0-1), and whether that is not told to be below the dense network's."""

    engine: str
    network: str
    precision: str
    rows: pd.DataFrame
    speed: Estimate
    accuracy: Estimate | None
    keeps_accuracy: bool
    sparse: bool


def candidates(
    benchmarks: pd.DataFrame, networks: pd.DataFrame, accuracies: pd.DataFrame, batch_size: int, cores: str
) -> list[Candidate]:
    """Return every case of the trained networks that has a speed at a batch size and share of cores, fastest first.

    A case without an accuracy is not known to keep it.
    """
    full = accuracies_of_seeds(networks, None, dense_network(networks), "fp32", "")
    sparse = sparse_networks(networks)
    cases = select(benchmarks, batch_size=batch_size, cores=cores)
    cases = cases[cases["network"].isin(networks["network"])]
    found = []
    for (engine, network, precision), rows in cases.groupby(["engine", "network", "precision"], sort=False):
        if not (speed := throughput(rows)):
            continue
        own = accuracies_of_seeds(networks, accuracies, network, precision, engine)
        loss = difference(own, full, clips_of(networks, network))
        correct = accuracy(networks, accuracies, network, precision, engine)
        keeps = loss is not None and loss.high >= 0
        found.append(Candidate(engine, network, precision, rows, speed, correct, keeps, network in sparse))
    return sorted(found, key=lambda case: -case.speed.value)


def untold_loss(networks: pd.DataFrame) -> float:
    """Return from how many points on the test clips tell a loss of accuracy from the dense network's."""
    dense = dense_network(networks)
    full = accuracies_of_seeds(networks, None, dense, "fp32", "")
    same = difference(full, full, clips_of(networks, dense))
    return same.high if same else 100.0


def as_fast(best: Candidate, others: list[Candidate]) -> list[Candidate]:
    """Return the others whose speed can't be told from that of `best`, fastest first."""
    return [
        other
        for other in others
        if other is not best and (gain := ratio(best.rows, other.rows)) and not gain.is_told_from_one
    ]


@dataclass(frozen=True)
class Recommendation:
    """What to deploy at one batch size and share of cores, and the rivals that the choice was made from.

    `best` is the most accurate of the cases that keep the accuracy and are as fast as the fastest of them, `equals` are
    the others of these. `lossy` is the fastest case that is told to be faster, at an accuracy that is told to be lower
    or not known. `sparse` and `dense` are the fastest of either kind that keep the accuracy, and `gain` is their ratio;
    if no dense one keeps it, `dense` is the fastest of all.
    """

    best: Candidate
    equals: list[Candidate]
    lossy: Candidate | None
    sparse: Candidate | None
    dense: Candidate | None
    gain: Estimate | None
    #: Whether any sparse network has a speed here, at whatever accuracy.
    any_sparse: bool

    @property
    def pays(self) -> str | None:
        """Whether sparsity pays here; None if no sparse network, or no dense one, was measured."""
        if not self.any_sparse or self.dense is None:
            return None
        if self.sparse is None:
            return NO
        if self.gain is None or not self.gain.has_interval:
            return OPEN
        if not self.gain.is_told_from_one:
            return OPEN
        if self.gain.value > 1:
            return YES
        return NO if self.dense.keeps_accuracy else OPEN


def recommend(found: list[Candidate]) -> Recommendation | None:
    """Return what follows from `candidates`; None if none of them is known to keep the accuracy."""
    keep = [case for case in found if case.keeps_accuracy]
    if not keep:
        return None
    fastest = keep[0]
    equals = [fastest, *as_fast(fastest, keep)]
    best = max(equals, key=lambda case: case.accuracy.value)
    faster = [
        case
        for case in found
        if not case.keeps_accuracy
        and (gain := ratio(case.rows, best.rows))
        and gain.is_told_from_one
        and gain.value > 1
    ]
    sparse = next((case for case in keep if case.sparse), None)
    dense = next((case for case in [*keep, *found] if not case.sparse), None)
    return Recommendation(
        best=best,
        equals=[case for case in equals if case is not best],
        lossy=faster[0] if faster else None,
        sparse=sparse,
        dense=dense,
        gain=ratio(sparse.rows, dense.rows) if sparse and dense else None,
        any_sparse=any(case.sparse for case in found),
    )
