"""Compute the accuracy of one artefact on the whole test set, through the engine that runs it.

Runs the worker of the benchmark without pinning and timing, on one thread. Like a benchmark case, an evaluation that
cannot run has a status and a reason instead of an accuracy.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from sparsemark.files import run_program, write_json
from sparsemark.measuring.case import case_arguments, case_record, case_request, model_sha256, obstacle
from sparsemark.measuring.engine_process import Ended, Group
from sparsemark.measuring.outcome import Outcome


def evaluate(python: Path, request: dict, timeout_s: float, cache: Path) -> dict[str, object]:
    """Run the worker over the test set; return the result's fields behind those that name the case."""
    try:
        with Group(python, {**request, "threads": 1}, [None], timeout_s=timeout_s, cache=cache) as group:
            [result] = group.results()
    except Ended as ended:
        return asdict(ended.outcome)
    return {**asdict(Outcome("ok")), **result}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    case_arguments(parser)
    parser.add_argument("--timeout-s", type=float, default=900.0, metavar="S", help="seconds (default: %(default)s)")
    options = parser.parse_args(arguments)
    request = case_request(options, "evaluate")
    result = {**case_record(options), "model_sha256": ""}
    if outcome := obstacle(options):
        result.update(status=outcome.status, reason=outcome.reason)
    else:
        result["model_sha256"] = model_sha256(options.model)
        result.update(evaluate(options.python, request, options.timeout_s, options.cache))
    write_json(options.out, result)


if __name__ == "__main__":
    run_program(main)
