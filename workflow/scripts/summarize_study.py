"""Say in a few lines what ran, on which machine and data, and what was found: the text that opens the report.

It is reStructuredText, which report/workflow.rst includes. Every number in it comes from the tables.
"""

import re
from pathlib import Path

import pandas as pd

from sparsemark.files import InputError, atomic_path, run_program
from sparsemark.results.claim_measures import STUDY_ENGINES
from sparsemark.results.claims import COLUMNS, VERDICTS
from sparsemark.results.measurements import (
    CASE,
    OURS,
    data_title,
    dense_network,
    engine_title,
    in_order,
    input_parser,
    kilo,
    load_accuracies,
    load_all_networks,
    load_benchmarks,
    load_rounds,
    load_table,
    percent_away,
    precision_title,
    select,
    share_title,
    times,
    with_interval,
)
from sparsemark.results.ratios import fastest, not_told_from, ratio, resolution, self_ratios, throughput
from sparsemark.results.sparse_gains import accuracy, best_gains, best_sparse

BATCH_SIZES = (1, 64)


def escaped(text: str) -> str:
    """Return `text` with the signs that mean something in reStructuredText taken literally."""
    return re.sub(r"([\\*`|_])", r"\\\1", text)


def ran(benchmarks: pd.DataFrame, networks: pd.DataFrame) -> list[str]:
    """Return what ran, where and on what, as list entries."""
    cases = benchmarks.drop_duplicates(CASE)
    measured = select(benchmarks, status="ok").drop_duplicates(CASE)
    engines = ", ".join(escaped(engine_title(engine)) for engine in in_order(benchmarks["engine"]))
    entries = [
        f"**Machine:** {escaped(', '.join(dict.fromkeys(benchmarks['machine'])) or 'none')}.",
        f"**Data:** {escaped(data_title(networks))}.",
        f"**Measured:** {len(cases)} cases in turns with a reference; {len(measured)} have a speed. "
        f"Engines: {engines}.",
    ]
    known = networks.dropna(subset="accuracy")
    accuracies = [
        f"{escaped(name)} {100 * rows['accuracy'].mean():.1f} %" for name, rows in known.groupby("network", sort=False)
    ]
    seeds = networks["seed"].nunique()
    if accuracies:
        entries.append(f"**Accuracy** (FP32, {seeds} seed{'s' * (seeds != 1)}): {', '.join(accuracies)}.")
    return entries


def told_apart(rounds: pd.DataFrame) -> list[str]:
    """Return what the reference measured against itself says of this machine, from the rows of all layouts."""
    found = self_ratios(rounds)
    if not found:
        return []
    ratios = ", ".join(
        f"{with_interval(mean.estimate(), '{:.3f}'.format)} ({share_title(*share)})" for share, mean in found.items()
    )
    entry = f"**What can be told:** the reference measured against itself gave {ratios}."
    if smallest := resolution(found.values()):
        entry += f" Ratios nearer to 1 than {percent_away(smallest)} can't be told apart on this machine."
    return [entry]


def fastest_of(rows: pd.DataFrame) -> str:
    """Return who is fastest and how fast, and who can't be told from it: "OpenVINO 30.0k [29.1k, 30.9k]"."""
    best = fastest(rows, "engine")
    speed = throughput(best)
    if speed is None:
        return ""
    same = [engine_title(case["engine"].iloc[0]) for case in not_told_from(best, rows, "engine")]
    told = f"{escaped(engine_title(best['engine'].iloc[0]))} {with_interval(speed)}"
    return f"{told}, not told from {escaped(', '.join(same))}" if same else told


def found_dense(benchmarks: pd.DataFrame, dense: str) -> list[str]:
    """Return what was found for the dense network."""
    entries = []
    for batch_size in BATCH_SIZES:
        cases = select(benchmarks, network=dense, batch_size=batch_size, cores="all")
        parts = [
            f"{told} in {precision_title(precision)}"
            for precision in ("fp32", "int8")
            if (told := fastest_of(select(cases, precision=precision)))
        ]
        if parts:
            entries.append(f"**Dense, batch size {batch_size},** fastest in words/s: {'; '.join(parts)}.")
    return entries


def found_sparse(benchmarks: pd.DataFrame, networks: pd.DataFrame, accuracies: pd.DataFrame) -> list[str]:
    """Return what was found for the sparse networks."""
    entries = []
    gains = [choice for choice in best_gains(benchmarks, networks, 64, "all") if choice.estimate]
    others = [choice for choice in gains if choice.engine in STUDY_ENGINES]
    if others:
        best = max(others, key=lambda choice: choice.estimate.value)
        gain = f"{with_interval(best.estimate, times)} ({escaped(best.network)}, {precision_title(best.precision)})"
        engine = escaped(engine_title(best.engine))
        gains_most = f"{engine} gains most, {gain}"
        if not best.estimate.is_told_from_one:
            gains_most = f"none gains what could be told from nothing; {engine} comes nearest, {gain}"
        entries.append(f"**Sparse over dense:** of the engines that the study compared, {gains_most}.")
    speeds = [choice for choice in best_sparse(benchmarks, networks, 64, "all") if choice.estimate]
    if speeds:
        best = max(speeds, key=lambda choice: choice.estimate.value)
        correct = accuracy(networks, accuracies, best.network, best.precision, best.engine)
        told = f", {100 * correct:.1f} % accuracy" if correct is not None else ""
        same = [
            escaped(engine_title(choice.engine))
            for choice in speeds
            if choice is not best and not ratio(best.rows, choice.rows).is_told_from_one
        ]
        entries.append(
            f"**Fastest of all:** {escaped(engine_title(best.engine))} on {escaped(best.network)}, "
            f"{precision_title(best.precision)}{told}: {with_interval(best.estimate)} words/s"
            f"{', not told from ' + ', '.join(same) if same else ''}."
        )
    return entries


def found_ours(benchmarks: pd.DataFrame, networks: pd.DataFrame, dense: str) -> list[str]:
    """Return how our engine's fastest network compares with the dense networks of the others, on one core."""
    entries = []
    for batch_size in BATCH_SIZES:
        cases = select(benchmarks, batch_size=batch_size, cores="1")
        ours = [choice for choice in best_sparse(benchmarks, networks, batch_size, "1") if choice.engine == OURS]
        if not ours or not ours[0].estimate:
            continue
        rivals = []
        fp32 = ratio(ours[0].rows, select(cases, engine="onnxruntime", network=dense, precision="fp32"))
        if fp32:
            rivals.append(f"{with_interval(fp32, times)} ONNX Runtime's dense FP32")
        others = select(cases[cases["engine"] != OURS], network=dense, precision="int8")
        rival = fastest(others, "engine")
        if gain := ratio(ours[0].rows, rival):
            engine = escaped(engine_title(rival["engine"].iloc[0]))
            rivals.append(f"{with_interval(gain, times)} the fastest dense INT8 ({engine})")
        if rivals:
            entries.append(
                f"**{engine_title(OURS)}, one core, batch size {batch_size}:** "
                f"{kilo(ours[0].estimate.value)} words/s on {escaped(ours[0].network)}; {', '.join(rivals)}."
            )
    return entries


def found_own(benchmarks: pd.DataFrame, networks: pd.DataFrame) -> list[str]:
    """Return, per network from a file, its fastest engines, and what pruning it would gain."""
    entries = []
    for file, rows in networks[networks["kind"] != "trained"].groupby("dataset", sort=False):
        unit = rows["unit"].iloc[0]
        cases = benchmarks[benchmarks["network"].isin(rows["network"])]
        for (batch_size, cores), own in cases.groupby(["batch_size", "cores"]):
            parts = []
            for precision, measured in select(own, network=file).groupby("precision"):
                best = fastest(measured, "engine")
                if speed := throughput(best):
                    engine = escaped(engine_title(best["engine"].iloc[0]))
                    parts.append(f"{engine} {with_interval(speed)} in {precision_title(precision)}")
            gains = {}
            for (name, engine, precision), measured in own[own["network"] != file].groupby(
                ["network", "engine", "precision"]
            ):
                base = select(own, network=file, engine=engine, precision=precision)
                if gain := ratio(measured, base):
                    gains[f"{escaped(name)} in {escaped(engine_title(engine))} {precision_title(precision)}"] = gain
            if gains:
                label = max(gains, key=lambda name: gains[name].value)
                parts.append(f"the largest gain of a what-if, {with_interval(gains[label], times)} ({label})")
            if parts:
                place = "one core" if cores == "1" else "whole processor"
                entries.append(
                    f"**{escaped(file)}, batch size {batch_size}, {place},** fastest in {unit}/s: {'; '.join(parts)}."
                )
    return entries


def missing(benchmarks: pd.DataFrame) -> list[str]:
    """Return the engines and precisions without any speed, each with its first reason."""
    entries = []
    for engine in in_order(benchmarks["engine"]):
        for precision, rows in select(benchmarks, engine=engine).groupby("precision"):
            if not (rows["status"] == "ok").any():
                first = rows.iloc[0]
                entries.append(
                    f"{escaped(engine_title(engine))} {precision_title(precision)}: {first['status']}, "
                    f"{escaped(first['reason'] or 'no reason given')}"
                )
    return entries


def found_study(benchmarks: pd.DataFrame, networks: pd.DataFrame, accuracies: pd.DataFrame, claims: Path) -> list[str]:
    """Return what was found for the networks that the study trained, and how its claims fared."""
    verdicts = load_table(claims, dict.fromkeys(COLUMNS, str))["verdict"]
    if unknown := set(verdicts) - set(VERDICTS):
        raise InputError(f"{claims}: column 'verdict': {unknown.pop()!r} is no verdict")
    counts = ", ".join(f"{(verdicts == name).sum()} {name}" for name in VERDICTS)
    dense = dense_network(networks)
    return [
        *found_dense(benchmarks, dense),
        *found_sparse(benchmarks, networks, accuracies),
        *found_ours(benchmarks, networks, dense),
        f"**Claims of the study:** {counts}.",
    ]


def held_back(benchmarks: pd.DataFrame) -> list[str]:
    """Return what may have held the machine back, each kind once, with its first words and the number of rows."""
    entries: dict[str, tuple[str, int]] = {}
    for doubts in benchmarks["doubts"]:
        for doubt in filter(None, doubts.split("; ")):
            kind = re.sub(r"\d+(\.\d+)?", "#", doubt)  # a kind has other numbers in every row
            first, count = entries.get(kind, (doubt, 0))
            entries[kind] = first, count + 1
    return [f"{count} of {len(benchmarks)} rows: {escaped(first)}" for first, count in entries.values()]


def section(title: str, entries: list[str]) -> str:
    """Return a section with a bullet list, or nothing if the list is empty."""
    if not entries:
        return ""
    bullets = "\n".join(f"- {entry}" for entry in entries)
    return f"{title}\n{'-' * len(title)}\n\n{bullets}\n\n"


def main(arguments: list[str] | None = None) -> None:
    parser = input_parser(__doc__, "benchmarks", "networks", "accuracies")
    parser.add_argument("--claims", type=Path, help="claims.csv; a study that trains no network has none")
    options = parser.parse_args(arguments)
    benchmarks = load_benchmarks(options.benchmarks)
    networks = load_all_networks(options.networks)
    found = found_own(benchmarks, networks)
    if options.claims:
        trained = select(networks, kind="trained")
        found = found_study(benchmarks, trained, load_accuracies(options.accuracies), options.claims) + found
    what_ran = ran(benchmarks, networks) + told_apart(load_rounds(options.benchmarks))
    text = section("What ran", what_ran) + section("What was found", found)
    text += section("What has no speed, and why", missing(benchmarks))
    text += section("What may have held the machine back", held_back(benchmarks))
    with atomic_path(options.out) as partial:
        partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_program(main)
