"""Table of where the study's time went: per stage its jobs and how long they took, from the records of the jobs."""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sparsemark.files import InputError, read_json, run_program
from sparsemark.results.html_table import Cell, write_table
from sparsemark.results.measurements import load_table

HEADER = ["Stage", "Jobs", "Ran for", "Share, %", "All jobs together", "Longest job"]
PAGES = ("plot_", "tabulate_", "summarize_", "check_", "collect_", "resolve_")


@dataclass(frozen=True)
class Job:
    """One job: its rule, and when it began and ended, in seconds since the epoch."""

    rule: str
    begin: float
    end: float


def read_jobs(folder: Path) -> set[Job]:
    """Read Snakemake's record of every file that a job has written; a job with several files counts once.

    Raises:
        InputError: there is no record, or it is none of Snakemake's.
    """
    jobs = set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        record = read_json(path)
        try:
            if record["endtime"] is not None:
                jobs.add(Job(record["rule"], record["starttime"], record["endtime"]))
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: expected Snakemake's record of a job with rule, starttime, endtime") from error
    if not jobs:
        raise InputError(f"{folder}: expected Snakemake's records of finished jobs, .snakemake/metadata")
    return jobs


def covered(jobs: Iterable[Job]) -> float:
    """Return for how many seconds at least one of the jobs ran."""
    total, until = 0.0, float("-inf")
    for job in sorted(jobs, key=lambda job: job.begin):
        total += max(0.0, job.end - max(job.begin, until))
        until = max(until, job.end)
    return total


def stage(rule: str) -> str:
    """Return the stage of a rule: itself, but for the many that make a table or a figure in a second."""
    return "tables and figures" if rule.startswith(PAGES) else rule


def duration(seconds: float) -> str:
    """Return a time as minutes and seconds, e.g. "3:07"."""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metadata", type=Path, required=True, help="Snakemake's records of jobs, .snakemake/metadata")
    parser.add_argument("--benchmarks", type=Path, required=True, help="benchmarks.csv")
    parser.add_argument("--out", type=Path, required=True, help="HTML page to write")
    options = parser.parse_args(arguments)
    jobs = read_jobs(options.metadata)
    turns = load_table(options.benchmarks, {"turns_s": float})["turns_s"].sum()
    whole = covered(jobs)
    stages: dict[str, list[Job]] = {}
    for job in sorted(jobs, key=lambda job: job.begin):
        stages.setdefault(stage(job.rule), []).append(job)
    rows = []
    for name, own in stages.items():
        lengths = pd.Series([job.end - job.begin for job in own])
        ran = covered(own)
        times = [duration(ran), f"{100 * ran / whole:.0f}", duration(lengths.sum()), duration(lengths.max())]
        rows.append([name, len(own), *times])
        if name == "benchmark":
            share = f"{100 * turns / whole:.0f}"
            rows.append([Cell("of which taking turns", "quiet"), "", duration(turns), share, "", ""])
    note = (
        f"In minutes and seconds. Jobs ran for {duration(whole)} in all, waits between runs of the study left out; "
        "stages overlap where jobs of several ran at once. What a benchmark does not spend on turns, it spends on "
        "starting processes, on loading and compiling models, and on checking what they compute."
    )
    write_table(options.out, "Where the time went", note, HEADER, rows, HEADER[1:])


if __name__ == "__main__":
    run_program(main)
