"""Compute the log-mel features that every later stage shares: of the test, the validation and the calibration clips.

Of the training clips and the background noise, spectrograms with closer frames and a margin are kept: training reads
them at other speeds and positions, and adds noise to them. Computing them anew from augmented audio in every epoch
would take longer than the network.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from sparsemark.data.clips import read_clips
from sparsemark.data.frontend import MARGIN, PARAMETERS, STEPS, LogMel, as_features, to_waveform
from sparsemark.files import atomic_path, read_json, run_program, write_json
from sparsemark.progress import Progress

BATCH = 256


def decibels(clips: np.ndarray, what: str) -> torch.Tensor:
    """Return features in decibel, float32 [clips, 1, mel, time], of int16 `clips`, [clips, samples]."""
    front_end, pieces, progress = LogMel(), [], Progress(what, len(clips))
    for start in range(0, len(clips), BATCH):
        batch = torch.from_numpy(np.array(clips[start : start + BATCH]))
        pieces.append(as_features(front_end(to_waveform(batch))))
        progress.advance(len(batch))
    return torch.cat(pieces)


def training_spectrograms(clips: np.ndarray, path: Path) -> tuple[float, float]:
    """Write the spectrograms that training reads, float16 decibel [clips, mel, frames], to `path`.

    Returns:
        Mean and standard deviation of the clips' features, in decibel.
    """
    front_end, progress = LogMel(STEPS, MARGIN), Progress("spectrograms of the training clips", len(clips))
    count = total = squares = 0.0
    with atomic_path(path) as partial:
        spectrograms = None
        for start in range(0, len(clips), BATCH):
            batch = torch.from_numpy(np.array(clips[start : start + BATCH]))
            decibel = front_end(to_waveform(batch))
            if spectrograms is None:
                shape = (len(clips), *decibel.shape[1:])
                spectrograms = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
            spectrograms[start : start + len(batch)] = decibel
            part = as_features(decibel[:, :, MARGIN:-MARGIN:STEPS]).double()
            count, total, squares = (
                count + part.numel(),
                total + float(part.sum()),
                squares + float(part.square().sum()),
            )
            progress.advance(len(batch))
        spectrograms.flush()
    mean = total / count
    return mean, math.sqrt(squares / count - mean**2)


def calibration_rows(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Choose up to `count` training clips in a random order: of each class its share, or all that it has."""
    classes = np.unique(labels)
    rows = []
    for number, label in enumerate(classes):
        share = count // len(classes) + (number < count % len(classes))
        members = np.flatnonzero(labels == label)
        rows.append(rng.choice(members, min(share, len(members)), replace=False))
    return rng.permutation(np.concatenate(rows))


def save_features(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    """Write features and labels as `path`, an .npz file."""
    with atomic_path(path) as partial:
        np.savez(partial, x=x, y=y)


def extract(data: Path, out: Path, calibration_clips: int, seed: int) -> None:
    """Write the features of one prepared data set."""
    read_json(data / "dataset.json")
    clips = {split: np.load(data / f"{split}.npy", mmap_mode="r") for split in ("train", "validation", "test")}
    labels = {split: read_clips(data / f"{split}.csv")[0] for split in clips}
    out.mkdir(parents=True, exist_ok=True)
    mean, std = training_spectrograms(clips["train"], out / "train.npy")
    noise = LogMel(STEPS)(to_waveform(torch.from_numpy(np.load(data / "noise.npy"))).unsqueeze(0))
    with atomic_path(out / "noise.npy") as partial:
        np.save(partial, noise[0].half().numpy())

    def features(rows: np.ndarray, what: str) -> np.ndarray:
        return ((decibels(rows, what) - mean) / std).numpy()

    for split in ("validation", "test"):
        save_features(out / f"{split}.npz", features(clips[split], f"features of the {split} clips"), labels[split])
    rows = calibration_rows(labels["train"], calibration_clips, np.random.default_rng(seed))
    chosen = features(clips["train"][np.sort(rows)], "features of the calibration clips")[np.argsort(np.argsort(rows))]
    save_features(out / "calibration.npz", chosen, labels["train"][rows])
    with atomic_path(out / "calibration.csv") as partial:
        lines = [f"{row},{labels['train'][row]}" for row in rows]
        partial.write_text("\n".join(["clip,label", *lines]) + "\n", encoding="utf-8")
    write_json(out / "frontend.json", {**PARAMETERS, "mean": mean, "std": std})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of a prepared data set")
    parser.add_argument(
        "--calibration-clips", type=int, default=384, help="training clips that calibrate quantisation, at most"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the choice of calibration clips")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    extract(options.data, options.out, options.calibration_clips, options.seed)


if __name__ == "__main__":
    run_program(main)
