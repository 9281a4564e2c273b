"""What each engine makes of the sparse networks: its best speed, and its gain over the dense network."""

from dataclasses import dataclass

import pandas as pd

from sparsemark.results.measurements import dense_network, engines_and_precisions, in_order, select, sparse_networks
from sparsemark.results.ratios import Estimate, ratio, throughput


@dataclass(frozen=True)
class Choice:
    """One case of an engine that was chosen among many: network, precision, and its estimate (None: none measured)."""

    engine: str
    network: str
    precision: str
    estimate: Estimate | None
    rows: pd.DataFrame


def best_sparse(benchmarks: pd.DataFrame, networks: pd.DataFrame, batch_size: int, cores: str) -> list[Choice]:
    """Return, per engine, its fastest case over the sparse networks and all precisions, in the figures' order."""
    cases = select(benchmarks, batch_size=batch_size, cores=cores)
    cases = cases[cases["network"].isin(sparse_networks(networks))]
    choices = []
    for engine in in_order(cases["engine"]):
        tried = [
            Choice(engine, network, precision, throughput(rows), rows)
            for (network, precision), rows in select(cases, engine=engine).groupby(["network", "precision"], sort=False)
        ]
        choices.append(_best(tried))
    return choices


def best_gains(benchmarks: pd.DataFrame, networks: pd.DataFrame, batch_size: int, cores: str) -> list[Choice]:
    """Return, per engine and precision, its largest gain of a sparse network over the dense one at that precision."""
    cases = select(benchmarks, batch_size=batch_size, cores=cores)
    dense = select(cases, network=dense_network(networks))
    sparse = cases[cases["network"].isin(sparse_networks(networks))]
    choices = []
    for engine, precision in engines_and_precisions(sparse):
        base = select(dense, engine=engine, precision=precision)
        own = select(sparse, engine=engine, precision=precision)
        tried = [
            Choice(engine, network, precision, ratio(rows, base), rows if len(base) else base)
            for network, rows in own.groupby("network", sort=False)
        ]
        choices.append(_best(tried))
    return choices


def _best(tried: list[Choice]) -> Choice:
    measured = [choice for choice in tried if choice.estimate]
    return max(measured, key=lambda choice: choice.estimate.value) if measured else tried[0]


def mac_gain(networks: pd.DataFrame, network: str) -> float:
    """Return how many times fewer multiply-accumulates `network` needs than the dense network, median over seeds."""
    full = select(networks, network=dense_network(networks))["nonzero_macs"].median()
    return float(full / select(networks, network=network)["nonzero_macs"].median())


def work_left(networks: pd.DataFrame, network: str) -> tuple[float, float]:
    """Return the non-zero weights and the multiply-accumulates that remain with them, mean over seeds."""
    trained = select(networks, network=network)
    return float(trained["nonzero_weights"].mean()), float(trained["nonzero_macs"].mean())
