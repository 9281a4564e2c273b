"""Say in a few lines what ran, on which machine and data, and what was found: the text that opens the report.

It is reStructuredText, which report/workflow.rst includes. Every number in it comes from the tables.
"""

import re
from pathlib import Path

import pandas as pd

from sparsemark.files import InputError, atomic_path, run_program
from sparsemark.results.accuracies import in_percent, over_seeds
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
from sparsemark.results.quality import light
from sparsemark.results.ratios import fastest, ratio, resolution, self_ratios, throughput
from sparsemark.results.recommendations import (
    NO,
    OPEN,
    YES,
    Candidate,
    Recommendation,
    as_fast,
    candidates,
    recommend,
    untold_loss,
)

#: The data set whose accuracy says nothing about people, and the epochs below which a training is called short.
SYNTHETIC, SHORT_TRAINING = "synthetic_speech", 20
#: What a network is deployed for: batch size and cores.
USES = [(1, "1"), (1, "all"), (64, "1"), (64, "all")]


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
    seeds = known["seed"].nunique()
    told = "; ".join(
        f"{escaped(name)} {over_seeds(rows['accuracy'], int(rows['test_clips'].iloc[0]))}"
        for name, rows in known.groupby("network", sort=False)
    )
    if told:
        entries.append(f"**Accuracy in %** (FP32, {seeds} seed{'s' * (seeds != 1)}): {told}.{caution(networks)}")
    if sets := instruction_sets(benchmarks):
        entries.append(f"**Instruction sets** that the engines say they ran with: {'; '.join(sets)}.")
    return entries


def caution(networks: pd.DataFrame) -> str:
    """Return what accuracies of this data and training can't say, as sentences after them."""
    trained = select(networks, kind="trained")
    told = ""
    if trained["dataset"].eq(SYNTHETIC).any():
        told += " This is synthetic speech: it ranks networks, and says nothing of how well they know people's voices."
    epochs = trained["epochs"].dropna()
    if len(epochs) and epochs.min() < SHORT_TRAINING:
        span = f"{epochs.min():.0f}" if epochs.min() == epochs.max() else f"{epochs.min():.0f} to {epochs.max():.0f}"
        told += f" Training was short ({span} epochs): what sparsity costs in accuracy may be less after a longer one."
    return told


def instruction_sets(benchmarks: pd.DataFrame) -> list[str]:
    """Return, per engine that tells, the instruction sets or kernels that it ran with."""
    found = []
    for engine in in_order(benchmarks["engine"]):
        if told := list(filter(None, dict.fromkeys(select(benchmarks, engine=engine, status="ok")["instruction_set"]))):
            found.append(f"{escaped(engine_title(engine))} {escaped(', '.join(told))}")
    return found


def trust(rounds: pd.DataFrame) -> list[str]:
    """Return how far the numbers can be trusted, from the rows of all layouts."""
    level, signs = light(rounds)
    reasons = "; ".join(sign.words for sign in signs if sign.level)
    others = "; ".join(sign.words for sign in signs if not sign.level)
    entry = (
        f"**How far to trust it: {level}.**"
        + f" Because: {reasons}." * bool(reasons)
        + f" Good: {others}." * bool(others)
    )
    entries = [entry]
    if found := self_ratios(rounds):
        ratios = ", ".join(
            f"{with_interval(mean.estimate(), '{:.3f}'.format)} ({share_title(*share)})"
            for share, mean in found.items()
        )
        entry = f"**What can be told:** the reference measured against itself gave {ratios}."
        if smallest := resolution(found.values()):
            entry += f" Ratios nearer to 1 than {percent_away(smallest)} can't be told apart on this machine."
        entries.append(entry)
    return entries


def use_title(batch_size: int, cores: str) -> str:
    """Return what a network is deployed for: "single words, one core"."""
    size = "single words" if batch_size == 1 else f"batches of {batch_size}"
    return f"{size}, {'one core' if cores == '1' else 'whole processor'}"


def name_of(case: Candidate) -> str:
    """Return a case as a reader names it: "pruned in DeepSparse FP32"."""
    return f"{escaped(case.network)} in {escaped(engine_title(case.engine))} {precision_title(case.precision)}"


def with_accuracy(case: Candidate) -> str:
    """Return a case and its accuracy."""
    return f"{name_of(case)} ({in_percent(case.accuracy) + ' % right' if case.accuracy else 'accuracy not measured'})"


def some(cases: list[Candidate], number: int = 3) -> str:
    """Return the names of the first cases, and how many more there are."""
    more = f" and {len(cases) - number} more" if len(cases) > number else ""
    return ", ".join(map(name_of, cases[:number])) + more


def does_it_pay(advice: dict[tuple[int, str], Recommendation], untold: float) -> list[str]:
    """Return the answer to the report's question: in a word, then use by use.

    Args:
        untold: how many points of accuracy a network may lose before the test clips tell.
    """
    verdicts: dict[str, list[str]] = {YES: [], NO: [], OPEN: []}
    for use, choice in advice.items():
        if choice.pays:
            gain = with_interval(choice.gain, times) if choice.gain else "no sparse network keeps the accuracy"
            verdicts[choice.pays].append(f"{use_title(*use)} ({gain})")
    told = {verdict: uses for verdict, uses in verdicts.items() if uses}
    if not told:
        return []
    if len(told) == 1:
        [answer] = told
    elif YES in told:
        answer = f"{YES} in {len(told[YES])} of {sum(map(len, told.values()))} uses"
    else:
        answer = "no gain can be told"
    named = {verdict: f"{verdict}: {', '.join(uses)}" for verdict, uses in told.items()}
    # One answer for every use needs no second naming.
    details = "; ".join(named.values()) if len(told) > 1 else f"for {', '.join(*told.values())}"
    return [
        f"**Does sparsity pay on this processor? {answer.capitalize()}.** {details.capitalize()}. In brackets: the "
        "fastest sparse network over the fastest dense one, smaller ones included, each in its best engine and "
        "precision. Only networks count that are not told to be less accurate than the dense one in FP32; the test "
        f"clips tell a loss from about {untold:.1f} points on."
    ]


def what_to_take(use: tuple[int, str], choice: Recommendation) -> str:
    """Return what to deploy for a use, what is as good, and what would be faster at a lower accuracy."""
    best = choice.best
    parts = [f"**For {use_title(*use)}:** take {with_accuracy(best)}, {with_interval(best.speed)} words/s"]
    rival = choice.dense if best.sparse else choice.sparse
    if rival and (gain := ratio(best.rows, rival.rows)):
        kind = "dense" if best.sparse else "sparse"
        parts.append(f"{with_interval(gain, times)} as fast as the fastest {kind} network, {with_accuracy(rival)}")
    if choice.equals:
        parts.append(f"as fast, as far as can be told: {some(choice.equals)}")
    if choice.lossy:
        gain = with_interval(ratio(choice.lossy.rows, best.rows), times)
        parts.append(f"faster, less accurate or of unknown accuracy: {with_accuracy(choice.lossy)}, {gain}")
    return "; ".join(parts) + "."


def found_dense(found: dict[tuple[int, str], list[Candidate]], dense: str) -> list[str]:
    """Return the fastest case of the dense network, over all engines and precisions, use by use."""
    entries = []
    for use, cases in found.items():
        own = [case for case in cases if case.network == dense]
        if own:
            best, same = own[0], as_fast(own[0], own)
            kinds = ", ".join(dict.fromkeys(precision_title(case.precision) for case in own))
            entry = (
                f"**The dense network, {use_title(*use)}:** fastest of {len(own)} engines and precisions ({kinds}): "
            )
            entry += f"{with_accuracy(best)}, {with_interval(best.speed)} words/s"
            entries.append(f"{entry}; as fast, as far as can be told: {some(same)}." if same else f"{entry}.")
    return entries


def found_sparse(found: dict[tuple[int, str], list[Candidate]], dense: str) -> list[str]:
    """Return, use by use, the engine that gains most from sparsity: its fastest sparse case over its fastest dense one.

    The gain at the sparse case's own precision stands beside it where that is another case.
    """
    entries = []
    for use, cases in found.items():
        gains = []
        for engine in in_order(case.engine for case in cases):
            own = [case for case in cases if case.engine == engine]
            sparse = next((case for case in own if case.sparse), None)
            full = next((case for case in own if case.network == dense), None)
            if sparse and full and (gain := ratio(sparse.rows, full.rows)):
                gains.append((gain, sparse, full, own))
        if not gains:
            continue
        gain, sparse, full, own = max(gains, key=lambda entry: entry[0].value)
        told = f"{with_interval(gain, times)}, {with_accuracy(sparse)} over {with_accuracy(full)}"
        same = [case for case in own if case.network == dense and case.precision == sparse.precision]
        if same and same[0] is not full:
            at_precision = with_interval(ratio(sparse.rows, same[0].rows), times)
            told += f"; over its slower dense {precision_title(sparse.precision)} it is {at_precision}"
        engine = escaped(engine_title(sparse.engine))
        most = f"{engine} gains most" if gain.value > 1 else f"no engine gains; {engine} loses least"
        if not gain.is_told_from_one:
            most = f"no gain is told from none; {engine} comes nearest"
        entries.append(
            f"**Sparse over dense in one engine, {use_title(*use)}:** of {len(gains)} engines, {most}, {told}."
        )
    return entries


def found_ours(found: dict[tuple[int, str], list[Candidate]], dense: str) -> list[str]:
    """Return how our engine's fastest sparse network compares with the dense network of the others, on one core."""
    entries = []
    for (batch_size, cores), cases in found.items():
        ours = next((case for case in cases if case.engine == OURS and case.sparse), None)
        if ours is None or cores != "1":
            continue
        others = [case for case in cases if case.engine != OURS and case.network == dense]
        rivals = []
        for case in others:
            if (case.engine, case.precision) == ("onnxruntime", "fp32"):
                rivals.append(f"{with_interval(ratio(ours.rows, case.rows), times)} ONNX Runtime's dense FP32")
        if others and (gain := ratio(ours.rows, others[0].rows)):
            rivals.append(f"{with_interval(gain, times)} the fastest dense one elsewhere, {with_accuracy(others[0])}")
        if rivals:
            entries.append(
                f"**{engine_title(OURS)}, {use_title(batch_size, cores)}:** {kilo(ours.speed.value)} words/s with "
                f"{with_accuracy(ours)}; {'; '.join(rivals)}."
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


def counted(claims: Path) -> str:
    """Return how the claims of the study fared."""
    verdicts = load_table(claims, dict.fromkeys(COLUMNS, str))["verdict"]
    if unknown := set(verdicts) - set(VERDICTS):
        raise InputError(f"{claims}: column 'verdict': {unknown.pop()!r} is no verdict")
    return f"**Claims of the study:** {', '.join(f'{(verdicts == name).sum()} {name}' for name in VERDICTS)}."


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
    benchmarks = load_benchmarks(options.benchmarks, executed=True)
    networks = load_all_networks(options.networks)
    short, found = [], []
    if options.claims:
        trained, accuracies = select(networks, kind="trained"), load_accuracies(options.accuracies)
        cases = {use: candidates(benchmarks, trained, accuracies, *use) for use in USES}
        advice = {use: choice for use, own in cases.items() if (choice := recommend(own))}
        lossy = [use_title(*use) for use, own in cases.items() if own and use not in advice]
        dense = dense_network(trained)
        short = does_it_pay(advice, untold_loss(trained)) + [
            what_to_take(use, choice) for use, choice in advice.items()
        ]
        if lossy:
            short.append(f"**Nothing to take** for {'; '.join(lossy)}: no case is known to keep the dense accuracy.")
        found = [*found_dense(cases, dense), *found_sparse(cases, dense), *found_ours(cases, dense)]
        found.append(counted(options.claims))
    found += found_own(benchmarks, networks)
    trusted, *told = trust(load_rounds(options.benchmarks))
    text = section("In short", [*short, trusted])
    text += section("What ran", ran(benchmarks, networks) + told) + section("What was found", found)
    text += section("What has no speed, and why", missing(benchmarks))
    text += section("What may have held the machine back", held_back(benchmarks))
    with atomic_path(options.out) as partial:
        partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_program(main)
