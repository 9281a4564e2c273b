# Slurm, where profiles/slurm sends the jobs: docs/cluster.md.
import os
import subprocess
import time

from snakemake.logging import logger


def slurm_jobs():
    """The jobs that a Snakemake of this folder has in Slurm's queue; it names their rules in a comment."""
    command = ["squeue", "--me", "--noheader", "--format=%A|%k|%Z"]
    queue = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    entries = [line.split("|", 2) for line in queue.splitlines()]
    return [job for job, comment, folder in entries if comment.startswith("rule_") and folder == os.getcwd()]


def end_orphans():
    """End what a Snakemake that was killed left in Slurm's queue: it would write the files that this run makes.

    To be called under the study's lock: then no other Snakemake waits for these jobs.
    """
    if workflow.executor_plugin.name != "slurm":
        return
    while jobs := slurm_jobs():
        logger.info(f"Ending jobs of an earlier run: {', '.join(jobs)}")
        subprocess.run(["scancel", *jobs], check=True)
        time.sleep(5)
