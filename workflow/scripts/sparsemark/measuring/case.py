"""A case on the command line: an engine, a network in a model file, and what it is compared with."""

import argparse
import tempfile
from pathlib import Path

from sparsemark.cpu import cpu_model
from sparsemark.engines import engine_class, engine_names
from sparsemark.files import InputError, read_json, sha256
from sparsemark.measuring.outcome import STATUSES, Outcome

PRECISIONS = ("fp32", "bf16", "int8")


def model_sha256(model: Path) -> str:
    """Return the sha256 of a model file, or of a model folder's `name: sha256` list."""
    if model.is_file():
        return sha256(model)
    listing = "".join(
        f"{path.relative_to(model)}: {sha256(path)}\n" for path in sorted(model.rglob("*")) if path.is_file()
    )
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as handle:
        handle.write(listing)
        handle.flush()
        return sha256(Path(handle.name))


def obstacle(options: argparse.Namespace) -> Outcome | None:
    """Return why the case cannot be tried (no environment, no model), or None if it can.

    What prepared the model tells in `MODEL.json`, {"status": ..., "reason": ..., "cpu": ...}, beside it how that ended
    and on which CPU it ran (see attempt.py).
    """
    engine = engine_class(options.engine)
    if options.environment_status and (outcome := _failure(options.environment_status)):
        return outcome
    if options.model is None:
        why = engine.missing.get(options.precision, "there is no form of the network for it here")
        if options.precision in engine.models:
            why = "it runs networks that this study trained, as PyTorch has them, and this one comes from an ONNX file"
        return Outcome("unsupported", f"{engine.title} has no {options.precision}: {why}")
    status = options.model.with_name(f"{options.model.name}.json")
    if status.exists() and (outcome := _failure(status)):
        return outcome
    if not options.model.exists():
        raise InputError(f"{options.model}: expected a model file")
    return foreign_code(options.model) if engine.compiled_models else None


def foreign_code(model: Path) -> Outcome | None:
    """Return why a model that holds code and schedules for one CPU must not run on this one, or None if it may."""
    status = model.with_name(f"{model.name}.json")
    made_on, here = read_json(status).get("cpu", {}) if status.exists() else {}, cpu_model()
    if made_on == here:
        return None
    there, this = (
        f"{cpu['cpu']} ({cpu['family_model_stepping']})" if cpu else "a CPU that is not told" for cpu in (made_on, here)
    )
    difference = " with other instruction sets" if there == this else ""
    return Outcome(
        "unsupported",
        f"its model was compiled and tuned for {there}, and this is {this}{difference}; "
        f"delete {model.parent} to make it anew here",
    )


def _failure(path: Path) -> Outcome | None:
    record = read_json(path)
    if not isinstance(record, dict) or not {"status", "reason"} <= record.keys() or record["status"] not in STATUSES:
        raise InputError(f"{path}: expected status (one of {', '.join(STATUSES)}) and reason")
    return None if record["status"] == "ok" else Outcome(record["status"], str(record["reason"]))


def case_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a case and its files; `evaluate.py` has the same ones."""
    parser.add_argument("--engine", required=True, choices=engine_names(), metavar="NAME", help="an adapter's name")
    parser.add_argument("--python", required=True, type=Path, help="interpreter of the engine's environment")
    parser.add_argument(
        "--environment-status",
        type=Path,
        metavar="JSON",
        help="record of the environment's deployment; one that failed makes an `unsupported` row",
    )
    parser.add_argument("--model", type=Path, help="model for this batch size and precision; without it, `unsupported`")
    parser.add_argument("--features", required=True, type=Path, metavar="NPZ", help="test features: x, y")
    parser.add_argument("--logits", required=True, type=Path, metavar="NPY", help="FP32 logits, in test order")
    parser.add_argument("--network", required=True, help="for the row")
    parser.add_argument("--dataset", required=True, metavar="DATASET[-CLASS_SET]", help="for the row")
    parser.add_argument("--seed", required=True, type=int, help="for the row")
    parser.add_argument("--precision", required=True, choices=PRECISIONS)
    parser.add_argument("--batch-size", type=positive, default=64, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--cache", type=Path, default=Path("results/cache"), help="compiled code of engines (default: %(default)s)"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="JSON", help="the result")


def positive(text: str) -> int:
    """Return `text` as a whole number of at least 1, for argparse."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def case_request(options: argparse.Namespace, mode: str) -> dict[str, object]:
    """Return the worker's request, with its files checked to be there."""
    for path in (options.features, options.logits):
        if not path.is_file():
            raise InputError(f"{path}: expected a file with the test set's features or FP32 logits")
    return {
        "mode": mode,
        "engine": options.engine,
        "model": str(options.model),
        "features": str(options.features),
        "logits": str(options.logits),
        "precision": options.precision,
        "batch_size": options.batch_size,
    }


def case_record(options: argparse.Namespace) -> dict[str, object]:
    """Return what names the case in its result. A network from a file has no class set."""
    dataset, class_set = options.dataset.rsplit("-", 1) if "-" in options.dataset else (options.dataset, "")
    return {
        "engine": options.engine,
        "engine_title": engine_class(options.engine).title,
        "network": options.network,
        "dataset": dataset,
        "class_set": class_set,
        "seed": options.seed,
        "precision": options.precision,
        "batch_size": options.batch_size,
    }
