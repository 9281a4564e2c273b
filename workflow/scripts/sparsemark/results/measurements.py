"""The result tables as the figures, pages and claims read them: loading, selecting, and names for people."""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import yaml

from sparsemark.engines import engine_class
from sparsemark.files import InputError
from sparsemark.results.ratios import Estimate, with_reference

BENCHMARK_COLUMNS = {
    "engine": str,
    "engine_version": str,
    "network": str,
    "precision": str,
    "batch_size": int,
    "cores": str,
    "layout": str,
    "round": int,
    "ratio": float,
    "reference_words_per_s": float,
    "base_ratio": float,
    "is_reference": bool,
    "noisy": bool,
    "measured_at": str,
    "status": str,
    "reason": str,
    "machine": str,
    "doubts": str,
    "other_load": float,
}
#: What names a case; its rows differ in round and layout.
CASE = ["engine", "network", "precision", "batch_size", "cores"]
EXECUTED_COLUMNS = {
    "executed_precision": str,
    "executed_threads": str,
    "instruction_set": str,
    "own_operator_share": str,
}
NETWORK_COLUMNS = {
    "network": str,
    "kind": str,
    "unit": str,
    "dataset": str,
    "dataset_title": str,
    "class_set": str,
    "seed": int,
    "accuracy": float,
    "test_clips": int,
    "epochs": float,
    "parameters": int,
    "weights": int,
    "nonzero_weights": int,
    "macs": float,
    "nonzero_macs": float,
}
ACCURACY_COLUMNS = {"engine": str, "network": str, "seed": int, "precision": str, "accuracy": float, "status": str}
#: What ablate_quantization.py writes for each variant; `ratio` is the gain over FP32, with its range over the rounds.
ABLATION_COLUMNS = {
    "engine": str,
    "network": str,
    "batch_size": int,
    "variant": str,
    "order": str,
    "quantized": str,
    "method": str,
    "accuracy": float,
    "throughput_words_per_s": float,
    "ratio": float,
    "ratio_low": float,
    "ratio_high": float,
    "status": str,
    "reason": str,
}
#: What profile_operators.py writes for each operator; `microseconds` are those of a whole batch.
PROFILE_COLUMNS = {
    "engine": str,
    "network": str,
    "precision": str,
    "batch_size": int,
    "operator": str,
    "kind": str,
    "microseconds": float,
}
PUBLISHED_COLUMNS = {
    "platform": str,
    "network": str,
    "scope": str,
    "networks_on_chip": int,
    "throughput_words_per_s": float,
    "source": str,
    "note": str,
}

PATTERN_TITLES = {
    "block4": "blocks of 4 inputs",
    "n_of_64": "n of 64 inputs",
    "block16": "blocks of 16 outputs",
}
#: The order of engines in every figure and table; one that is not listed follows by name, and ours comes last.
ENGINE_ORDER = [
    "pytorch_eager",
    "pytorch_torchscript",
    "pytorch_compile",
    "pytorch_inductor",
    "onnxruntime",
    "openvino",
    "tvm",
    "deepsparse",
]
OURS = "dualsparse"


# ------------------------------------------------------------------------------------------------------- tables


def load_table(path: Path, columns: dict[str, type]) -> pd.DataFrame:
    """Read a CSV table whose `columns` have these types; further columns stay text.

    An empty number becomes NaN, and whatever is not `True` is false.

    Raises:
        InputError: the file is unreadable, a column is missing, or a value is not of its column's type.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a readable CSV table ({error})") from error
    missing = [name for name in columns if name not in table]
    if missing:
        raise InputError(f"{path}: column {missing[0]!r} is missing (expected {', '.join(columns)})")
    for name, kind in columns.items():
        if kind is str:
            continue
        if kind is bool:
            table[name] = table[name] == "True"
            continue
        try:
            numbers = pd.to_numeric(table[name].replace("", None))
            table[name] = numbers.astype(float if kind is float else int)
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: column {name!r}: expected {kind.__name__} in every row ({error})") from error
    return table


def load_benchmarks(path: Path, *, executed: bool = False) -> pd.DataFrame:
    """Read benchmarks.csv, with what `ratios` needs of the references; of a case's layouts only the best one is kept.

    With `executed`, the table must also tell what the engines read back.
    """
    return best_layouts(with_reference(load_rounds(path, executed=executed)))


def load_rounds(path: Path, *, executed: bool = False) -> pd.DataFrame:
    """Read benchmarks.csv as it is, a row per case, round and layout."""
    return load_table(path, BENCHMARK_COLUMNS | (EXECUTED_COLUMNS if executed else {}))


def load_networks(path: Path) -> pd.DataFrame:
    """Read networks.csv, a row per network and seed; those from files are none of the study's, and left out."""
    return select(load_all_networks(path), kind="trained")


def load_all_networks(path: Path) -> pd.DataFrame:
    """Read networks.csv, a row per network and seed, the trained ones first."""
    return load_table(path, NETWORK_COLUMNS).sort_values(
        "kind", key=lambda kind: kind != "trained", kind="stable", ignore_index=True
    )


def load_accuracies(path: Path) -> pd.DataFrame:
    """Read accuracies.csv, a row per artefact that an engine ran on the whole test set."""
    return load_table(path, ACCURACY_COLUMNS)


def load_published(path: Path) -> pd.DataFrame:
    """Read resources/fpga.csv, a row per published throughput."""
    return load_table(path, PUBLISHED_COLUMNS)


def load_ablation(paths: Iterable[Path]) -> pd.DataFrame:
    """Read the tables of ablate_quantization.py, one per engine, as one: a row per variant."""
    return _of_engines(paths, ABLATION_COLUMNS)


def ablation_gain(variant: pd.Series) -> Estimate | None:
    """Return the gain over FP32 in one row of `load_ablation` with its range over rounds, or None if it failed."""
    if variant["status"] != "ok":
        return None
    return Estimate(variant["ratio"], variant["ratio_low"], variant["ratio_high"], 1)


def load_profiles(paths: Iterable[Path]) -> pd.DataFrame:
    """Read the tables of profile_operators.py, one per engine and precision, as one: a row per operator."""
    return _of_engines(paths, PROFILE_COLUMNS)


def _of_engines(paths: Iterable[Path], columns: dict[str, type]) -> pd.DataFrame:
    """Read several engines' tables as one. An engine whose tool failed has left an empty file, and no rows."""
    tables = [load_table(path, columns) for path in paths if not path.exists() or path.stat().st_size]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(columns))


def load_specs(path: Path) -> dict[str, dict]:
    """Read the `networks` of the resolved configuration: per network, how it was made."""
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))["networks"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected the study's configuration with a key 'networks' ({error!r})") from error


def best_layouts(benchmarks: pd.DataFrame) -> pd.DataFrame:
    """Keep, of every case, the rows of its fastest layout.

    The first round chose it, and the others measured it alone; the reference was measured in its own layout as well.
    Rows without a layout stay: they tell of a round in which nothing could be tried.
    """
    measured = benchmarks[benchmarks["status"] == "ok"]
    if not len(measured):
        return benchmarks
    tried = measured.groupby([*CASE, "layout"], as_index=False)["ratio"].agg(["count", "median"])
    best = tried.sort_values(["count", "median"]).groupby(CASE)["layout"].last().rename("best")
    best = benchmarks.join(best, on=CASE)["best"]
    return benchmarks[best.isna() | (benchmarks["layout"] == best) | (benchmarks["layout"] == "")]


def select(rows: pd.DataFrame, **values: object) -> pd.DataFrame:
    """Return the rows whose columns have the given values, e.g. `select(table, engine="tvm", batch_size=64)`."""
    for column, value in values.items():
        rows = rows[rows[column] == value]
    return rows


def dense_network(networks: pd.DataFrame) -> str:
    """Return the name of the network that all gains refer to: the one without zeroes in its weights.

    Raises:
        InputError: every network of the study is sparse.
    """
    full = networks[
        (networks["nonzero_weights"] > 0.99 * networks["weights"])
        & (networks["nonzero_macs"] > 0.99 * networks["macs"])
    ]
    names = list(dict.fromkeys(full["network"]))
    if not names:
        raise InputError("networks.csv: no dense network in it (expected one whose weights are all non-zero)")
    return "dense" if "dense" in names else names[0]


def sparse_networks(networks: pd.DataFrame) -> list[str]:
    """Return the names of the networks that have lost at least a tenth of their weights, in the table's order."""
    sparse = networks[networks["nonzero_weights"] < 0.9 * networks["weights"]]
    return list(dict.fromkeys(sparse["network"]))


def small_dense_networks(networks: pd.DataFrame) -> list[str]:
    """Return the names of the networks without zeroes that cost less than the dense one: the control of sparsity."""
    cost = select(networks, network=dense_network(networks))["macs"].max()
    full = networks[(networks["nonzero_weights"] > 0.99 * networks["weights"]) & (networks["macs"] < cost)]
    return list(dict.fromkeys(full["network"]))


def base_network(networks: pd.DataFrame, network: str) -> str:
    """Return the network that a network's gain refers to: the dense one, or the file that it was pruned from."""
    row = select(networks, network=network).iloc[0]
    return dense_network(select(networks, kind="trained")) if row["kind"] == "trained" else row["dataset"]


# -------------------------------------------------------------------------------------------------------- names


def engine_title(name: str) -> str:
    """Return an engine's name for people; an engine without an adapter here keeps its short name."""
    try:
        return engine_class(name).title
    except KeyError:
        return name


def in_order(engines: Iterable[str]) -> list[str]:
    """Return the distinct engines in the order of all figures and tables."""

    def place(name: str) -> tuple[bool, int, str]:
        known = ENGINE_ORDER.index(name) if name in ENGINE_ORDER else len(ENGINE_ORDER)
        return name == OURS, known, name

    return sorted(set(engines), key=place)


def in_precision_order(precisions: Iterable[str]) -> list[str]:
    """Return the distinct precisions, widest first."""
    known = ["fp32", "bf16"]
    return sorted(set(precisions), key=lambda name: (known.index(name) if name in known else len(known), name))


def engines_and_precisions(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the distinct (engine, precision) of `rows` in the order of all figures and tables."""
    return [
        (engine, precision)
        for engine in in_order(rows["engine"])
        for precision in in_precision_order(select(rows, engine=engine)["precision"])
    ]


def precision_title(precision: str) -> str:
    """Return a precision's name for people, e.g. "INT8 qoperator"."""
    first, *rest = precision.replace("-", "_").split("_")
    return " ".join([first.upper(), *rest])


def network_kind(spec: dict) -> str:
    """Return in a few words what makes a network sparse, e.g. "n of 64 inputs, pruned, columns gated"."""
    parts = []
    if spec.get("sparsity"):
        pattern = spec.get("pattern", "unstructured")
        parts.append(PATTERN_TITLES.get(pattern, pattern))
        parts.append("pruned" if "start" in spec else "from initialisation")
    parts += ["k-winners"] * ("k_winners" in spec) + ["columns gated"] * ("column_gate" in spec)
    return ", ".join(parts) or "dense"


def kilo(value: float) -> str:
    """Return a count with three digits, e.g. "23.6k" or "1.37M"."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:#.3g}".rstrip(".") + unit
    return f"{value:.3g}"


def times(value: float) -> str:
    """Return a gain with the digits that a benchmark supports, e.g. "2.31×"; hopeless intervals end in a bound."""
    if value > 1e4:
        return "over 10,000×"
    if 0 < value < 1e-2:
        return "below 0.01×"
    return f"{value:#.3g}".rstrip(".") + "×" if value < 1000 else f"{value:,.0f}×"


def with_interval(estimate: Estimate | None, write=kilo) -> str:
    """Return "value [low, high]", the value alone for one round, or a dash."""
    if estimate is None:
        return "–"
    if not estimate.has_interval:
        return write(estimate.value)
    return f"{write(estimate.value)} [{write(estimate.low)}, {write(estimate.high)}]"


def why_missing(rows: pd.DataFrame) -> str:
    """Say in a few words why a case has no speed: its status and reason, or that the study doesn't contain it."""
    if not len(rows):
        return "not in this study"
    row = rows[rows["status"] != "ok"].iloc[0] if (rows["status"] != "ok").any() else rows.iloc[0]
    return f"{row['status']}: {row['reason']}" if row["reason"] else str(row["status"])


def origin(benchmarks: pd.DataFrame, networks: pd.DataFrame | None = None, note: str = "") -> str:
    """Return the line under a figure: machine, data set and rounds, after a `note` of the figure's own."""
    parts = [note] if note else []
    machines = ", ".join(dict.fromkeys(benchmarks["machine"])) or "no machine"
    parts.append(f"Machine: {machines}.")
    if networks is not None and len(networks):
        parts.append(f"Data: {data_title(networks)}.")
    rounds = benchmarks["round"].max() if len(benchmarks) else 0
    if rounds > 1:
        parts.append(
            f"Mean and 95 % t interval of {rounds} pairs of processes, each timed in turns with the reference."
        )
    elif rounds == 1:
        parts.append("One round: no interval.")
    if len(benchmarks) and (smallest := benchmarks["resolution"].iloc[0]):
        parts.append(f"Ratios nearer to 1 than {percent_away(smallest)} can't be told apart here.")
    return " ".join(parts)


def share_title(batch_size: int, cores: str) -> str:
    """Return the name of a reference: "batch size 64, one core"."""
    return f"batch size {batch_size}, {'one core' if cores == '1' else 'whole processor'}"


def percent_away(log: float) -> str:
    """Return how far from 1 a ratio with this logarithm is: "2.1 %"."""
    return f"{100 * math.expm1(log):.1f} %"


def one_core_origin(table: pd.DataFrame, benchmarks: pd.DataFrame, note: str) -> str:
    """Return the line under an ablation or a profile: what it was made with, its own `note`, and the machine."""
    cases = table[["network", "batch_size"]].drop_duplicates().itertuples(index=False)
    parts = [f"Network {network}, batch size {size}, one core." for network, size in cases]
    return " ".join([*parts, note, f"Machine: {', '.join(dict.fromkeys(benchmarks['machine'])) or 'none'}."])


def data_title(networks: pd.DataFrame) -> str:
    """Return data set and class set of the study, with the number of test clips; of a file, its samples."""
    columns = ["dataset_title", "class_set", "test_clips", "unit"]
    sets = networks[columns].drop_duplicates().itertuples(index=False)
    return "; ".join(
        f"{title}, class set {classes}, {clips:,} test clips" if classes else f"{title}, {clips:,} test {unit}"
        for title, classes, clips, unit in sets
    )


# ------------------------------------------------------------------------------------------------------ options


#: The inputs of figures, tables and claims: an option each, of the same name as in rules/report.smk.
INPUTS = {
    "benchmarks": "benchmarks.csv",
    "networks": "networks.csv",
    "accuracies": "accuracies.csv: accuracy of every artefact",
    "claims": "claims.csv",
    "config": "resolved configuration: how each network was made",
    "published": "published throughputs, resources/fpga.csv",
    "ablation": "tables of ablate_quantization.py",
    "profile": "tables of profile_operators.py",
}
#: Of these there is one per engine.
SEVERAL = {"ablation", "profile"}


def input_parser(description: str, *inputs: str) -> argparse.ArgumentParser:
    """Return a parser with an option for each of `inputs`, keys of INPUTS, and for the file to write."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in inputs:
        nargs = {"nargs": "*"} if name in SEVERAL else {}
        parser.add_argument(f"--{name}", type=Path, required=True, help=INPUTS[name], **nargs)
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    return parser
