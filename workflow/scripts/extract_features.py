"""Compute the log-mel features that every later stage shares: of the test, the validation and the calibration clips.

The training clips are augmented as audio, so training computes their features itself, with the same front end.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch

from files import InputError, atomic_path, read_json, run_program, write_json
from frontend import PARAMETERS, LogMel, to_waveform
from progress import Progress

BATCH = 256


def decibels(clips: np.ndarray, what: str) -> np.ndarray:
    """Return float32 [clips, 1, mel, time] in decibel of int16 `clips`, [clips, samples]."""
    front_end, pieces, progress = LogMel(), [], Progress(what, len(clips))
    for start in range(0, len(clips), BATCH):
        batch = torch.from_numpy(np.array(clips[start : start + BATCH]))
        pieces.append(front_end(to_waveform(batch)).numpy())
        progress.advance(len(batch))
    return np.concatenate(pieces)


def calibration_rows(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Choose `count` training clips, as many of each class as there are (to within one), in a random order.

    Raises:
        InputError: a class has too few clips.
    """
    classes = np.unique(labels)
    shares = [count // len(classes) + (i < count % len(classes)) for i in range(len(classes))]
    rows = []
    for label, share in zip(classes, shares, strict=True):
        members = np.flatnonzero(labels == label)
        if len(members) < share:
            raise InputError(f"calibration: expected at least {share} training clips of class {label}")
        rows.append(rng.choice(members, share, replace=False))
    return rng.permutation(np.concatenate(rows))


def read_clips(path: Path) -> tuple[np.ndarray, list[str]]:
    """Return the labels, int64 [clips], and the spoken words of a split's list."""
    with open(path, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    return np.array([int(row["label"]) for row in rows], dtype=np.int64), [row["word"] for row in rows]


def save_features(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    """Write features and labels as `path`, an .npz file."""
    with atomic_path(path) as partial:
        np.savez(partial, x=x, y=y)


def extract(data: Path, out: Path, calibration_clips: int, seed: int) -> None:
    """Write the features of one prepared data set."""
    read_json(data / "dataset.json")
    clips = {split: np.load(data / f"{split}.npy", mmap_mode="r") for split in ("train", "validation", "test")}
    labels = {split: read_clips(data / f"{split}.csv")[0] for split in clips}
    # The training features are needed once, for their mean and spread: in pieces, because they may be large.
    count = total = squares = 0.0
    for start in range(0, len(clips["train"]), 1 << 13):
        part = decibels(clips["train"][start : start + (1 << 13)], "features of the training clips").astype(np.float64)
        count, total, squares = count + part.size, total + part.sum(), squares + np.square(part).sum()
    mean = total / count
    std = float(np.sqrt(squares / count - mean**2))

    def features(rows: np.ndarray, what: str) -> np.ndarray:
        return ((decibels(rows, what) - np.float32(mean)) / np.float32(std)).astype(np.float32)

    for split in ("validation", "test"):
        save_features(out / f"{split}.npz", features(clips[split], f"features of the {split} clips"), labels[split])
    rows = calibration_rows(labels["train"], calibration_clips, np.random.default_rng(seed))
    chosen = features(clips["train"][np.sort(rows)], "features of the calibration clips")[np.argsort(np.argsort(rows))]
    save_features(out / "calibration.npz", chosen, labels["train"][rows])
    with atomic_path(out / "calibration.csv") as partial:
        lines = [f"{row},{labels['train'][row]}" for row in rows]
        partial.write_text("\n".join(["clip,label", *lines]) + "\n", encoding="utf-8")
    write_json(out / "frontend.json", {**PARAMETERS, "mean": float(mean), "std": std})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of a prepared data set")
    parser.add_argument("--calibration-clips", type=int, default=384, help="training clips that calibrate quantisation")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of calibration clips")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    extract(options.data, options.out, options.calibration_clips, options.seed)


if __name__ == "__main__":
    run_program(main)
