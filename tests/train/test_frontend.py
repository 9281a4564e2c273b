"""The features, against the formulas written out in NumPy."""

import csv
import json
from pathlib import Path

import numpy as np
import torch

from frontend import PARAMETERS, LogMel, to_waveform


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Log-mel of one clip, [32, 32], by the definition: frames, Hann window, power, HTK triangles, decibel, floor."""
    padded = np.pad(samples, 1024, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    frames = np.stack([padded[start : start + 2048] * window for start in range(0, len(samples) + 1, 512)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 34) / 2595) - 1)
    frequency = np.linspace(0, 8000, 1025)
    rising = (frequency - corners[:-2, None]) / np.diff(corners)[:-1, None]
    falling = (corners[2:, None] - frequency) / np.diff(corners)[1:, None]
    mel = np.maximum(0, np.minimum(rising, falling)) @ power.T
    return np.maximum(10 * np.log10(np.maximum(mel, 1e-10)), PARAMETERS["floor_db"])


def test_log_mel_is_its_definition() -> None:
    rng = np.random.default_rng(1)
    clips = np.stack([rng.normal(0, 3000, 16_000), 20 * rng.normal(size=16_000), np.zeros(16_000)]).astype(np.int16)
    found = LogMel()(to_waveform(torch.from_numpy(clips)))
    assert found.shape == (3, 1, 32, 32)
    expected = np.stack([log_mel(clip / 32768) for clip in clips])
    np.testing.assert_allclose(found[:, 0].numpy(), expected, atol=0.01)


def test_features_of_a_data_set(tiny: tuple[Path, Path]) -> None:
    data, features = tiny
    front_end = json.loads((features / "frontend.json").read_text())
    train = LogMel()(to_waveform(torch.from_numpy(np.load(data / "train.npy"))))
    np.testing.assert_allclose([front_end["mean"], front_end["std"]], [train.mean(), train.std()], rtol=1e-3)
    test = np.load(features / "test.npz")
    clips = np.load(data / "test.npy")
    assert (test["x"].dtype, test["y"].dtype, test["x"].shape) == (np.float32, np.int64, (len(clips), 1, 32, 32))
    expected = (log_mel(clips[7] / 32768) - front_end["mean"]) / front_end["std"]
    np.testing.assert_allclose(test["x"][7, 0], expected, atol=1e-3)
    # Calibration: training clips, all classes alike, each row where the list says.
    calibration = np.load(features / "calibration.npz")
    with open(features / "calibration.csv", newline="") as handle:
        rows = [int(row["clip"]) for row in csv.DictReader(handle)]
    assert len(set(rows)) == 32
    assert set(np.bincount(calibration["y"])) == {6, 7}
    normalised = (train[rows] - front_end["mean"]) / front_end["std"]
    np.testing.assert_allclose(calibration["x"], normalised, atol=1e-4)
