"""The list of a split's clips: a CSV file, a row per clip, in the order of the arrays."""

import csv
from pathlib import Path

import numpy as np

from sparsemark.files import atomic_path

COLUMNS = ("clip", "label", "word", "speaker", "source")


def write_list(path: Path, clips: list) -> None:
    """Write the list of a split's clips as CSV with the columns COLUMNS."""
    with atomic_path(path) as partial, open(partial, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row, clip in enumerate(clips):
            writer.writerow([row, clip.label, clip.word, clip.speaker, clip.source])


def read_clips(path: Path) -> tuple[np.ndarray, list[str]]:
    """Return the labels, int64 [clips], and the spoken words of a split's list."""
    with open(path, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    return np.array([int(row["label"]) for row in rows], dtype=np.int64), [row["word"] for row in rows]
